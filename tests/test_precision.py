"""bfloat16 products of float32 weights: decoding, copies of the weights, updates, saved policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from torch import nn
from transformers.pytorch_utils import Conv1D

from textrl_agents.sb3 import make_agent
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.models import CausalLM, CausalLMActorCritic, Reference, SlotDecoder, load_model, pack
from textrl_env.models.adapters import value_trunk_of
from textrl_env.models.compute import attention_kernel, precision
from textrl_env.models.compute.precision import LEAST_WIDTH, compute_dtype
from textrl_env.models.storage.loading import resolve_dtype
from textrl_env.models.storage.policy_folder import SETTINGS_FILE
from textrl_env.trajectory import Trajectory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTH = 20
# Of log-probabilities, as `textrl check` has it for bfloat16: these are of some nats, and products keep 8 bits.
TOLERANCE = 0.1
# peft still asks transformers for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def observe(rows: list[list[int]]) -> torch.Tensor:
    padded = torch.full((len(rows), LENGTH), -1)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return padded


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device has bfloat16."""
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)


@pytest.mark.usefixtures("able")
def test_auto_is_bfloat16_for_wide_models_of_float32_weights():
    for width, wanted in ((LEAST_WIDTH, torch.bfloat16), (LEAST_WIDTH - 1, torch.float32)):
        for device in (CPU, CUDA):
            assert compute_dtype("auto", torch.float32, device, width) == wanted
            assert compute_dtype("float32", torch.float32, device, width) == torch.float32
            assert compute_dtype("bfloat16", torch.float32, device, width) == torch.bfloat16
    for stored in (torch.bfloat16, torch.float16, torch.float64):
        assert compute_dtype("auto", stored, CPU, LEAST_WIDTH) == stored, "other weights are multiplied as they are"


def test_auto_is_float32_where_the_device_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: False)
    assert compute_dtype("auto", torch.float32, CPU, 4096) == torch.float32


@pytest.mark.parametrize(
    ("able_to", "wanted"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_a_cpu_is_asked_what_it_can(able_to: dict[str, bool], wanted: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able_to, raising=False)
    assert precision._has_bfloat16.__wrapped__(CPU) is wanted


def test_a_precision_that_there_is_not():
    with pytest.raises(ConfigError, match=r"'float16': its gradients underflow without a scaled loss.*Use 'bfloat16'"):
        compute_dtype("float16", torch.float32, CPU, 64)
    with pytest.raises(UnknownName, match=r"bfloat15.*Did you mean 'bfloat16'"):
        compute_dtype("bfloat15", torch.float32, CPU, 64)
    with pytest.raises(ConfigError, match="precision must be one of auto, float32, bfloat16, got None"):
        compute_dtype(None, torch.float32, CPU, 64)  # type: ignore[arg-type]
    for stored in (torch.bfloat16, torch.float16):
        with pytest.raises(ConfigError, match="precision='float32' needs weights in float32, and these are in"):
            compute_dtype("float32", stored, CPU, 64)


def test_a_policy_refuses_it_when_it_is_made(make_model: Any, make_policy: Any):
    with pytest.raises(ConfigError, match="needs weights in float32, and these are in bfloat16"):
        make_policy(make_model("llama").bfloat16(), precision="float32")


def test_weights_that_may_train_are_float32_on_every_device():
    assert resolve_dtype("auto", CUDA, frozen=False) == torch.float32
    assert resolve_dtype("auto", CPU, frozen=False) == torch.float32
    assert resolve_dtype("auto", CUDA, frozen=True) == "auto", "a frozen base keeps the checkpoint's own type"


def test_an_adapter_is_float32_on_a_half_precision_base(tmp_path: Path, make_model: Any, tiny_tokenizer: Any):
    loaded = load_model(
        make_model("llama"), tokenizer=tiny_tokenizer, device="cpu", dtype="bfloat16", lora={"r": 2}
    ).model
    types = {weight.dtype: weight.requires_grad for weight in loaded.parameters()}
    assert types == {torch.bfloat16: False, torch.float32: True}
    policy = CausalLMActorCritic(loaded, tiny_tokenizer, max_length=LENGTH)
    with torch.no_grad():
        for name, weight in loaded.named_parameters():
            if "lora_B" in name:
                weight.fill_(1e-5)  # less than bfloat16 could add to a weight
    policy.save_pretrained(tmp_path)
    merged, base = load_model(tmp_path, device="cpu").model, make_model("llama").bfloat16()
    assert merged.dtype == torch.float32
    moved = merged.model.layers[0].mlp.up_proj.weight - base.model.layers[0].mlp.up_proj.weight.float()
    assert 0 < moved.abs().max() < 1e-3, "merging keeps what is smaller than the base's rounding"


def half_with_adapter(make_model: Any, tokenizer: Any, scale: float = 0.3) -> Any:
    """A bfloat16 Llama with an adapter that changes its numbers."""
    loaded = load_model(make_model("llama"), tokenizer=tokenizer, device="cpu", dtype="bfloat16", lora={"r": 2}).model
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in loaded.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale)
    return loaded


def test_an_adapter_on_a_half_precision_base_is_multiplied_in_half_precision(make_model: Any, tiny_tokenizer: Any):
    """Its weights and gradients stay in float32; what decoding copies is the adapter alone."""
    model = half_with_adapter(make_model, tiny_tokenizer)
    lm, ids = CausalLM(model), torch.tensor([[4, 9, 30, 7]])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        model.config._attn_implementation = "eager"
        wanted = lm.body(input_ids=ids, use_cache=False).last_hidden_state
        model.config._attn_implementation = "sdpa"
    kinds = set()
    for name, module in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            module.register_forward_hook(lambda module, given, out: kinds.add((given[0].dtype, out.dtype)))
    states = lm.hidden(ids)
    assert torch.equal(states, wanted)
    assert {out for _, out in kinds} == {torch.bfloat16}
    states.float().sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert {weight.grad.dtype for weight in trained if weight.grad is not None} == {torch.float32}

    decoder, shown = SlotDecoder(lm, LENGTH), observe([[4, 9, 30, 7], [7, 8]])
    decoded = lm.project(decoder.last_hidden(shown)).log_softmax(-1)
    torch.testing.assert_close(decoded[:1], lm.project(wanted[:, -1]).log_softmax(-1), atol=TOLERANCE, rtol=0)
    assert lm._copies is not None
    adapter = {id(weight) for weight in trained}
    assert {id(source) for _, source in lm._copies._pairs} == adapter
    with torch.no_grad():
        for weight in trained:
            weight.mul_(2.0)
    assert not torch.equal(lm.project(decoder.last_hidden(shown)).log_softmax(-1), decoded)


@pytest.mark.parametrize("family", FAMILIES)
def test_short_sequences_in_half_precision_by_products(family: str, make_model: Any, monkeypatch: pytest.MonkeyPatch):
    """On a CPU. The same states as by the fused kernel but for rounding, and the model's own choice is restored."""
    lm, used = CausalLM(make_model(family), precision="bfloat16"), []
    own, ids = lm.config._attn_implementation, torch.arange(2, 14)[None]
    forward = lm.body.forward
    monkeypatch.setattr(
        lm.body, "forward", lambda **given: (used.append(lm.config._attn_implementation), forward(**given))[1]
    )
    by_products = lm.project(lm.hidden(ids)).log_softmax(-1)
    monkeypatch.setattr(attention_kernel, "SHORT", ids.shape[1] - 1)
    fused = lm.project(lm.hidden(ids)).log_softmax(-1)
    torch.testing.assert_close(by_products, fused, atol=TOLERANCE, rtol=0)
    assert used == ["eager", own]
    monkeypatch.undo()
    with pytest.raises(IndexError):
        lm.hidden(torch.tensor([[10**6]]))
    assert lm.config._attn_implementation == own


def test_a_separate_value_trunk_chooses_its_attention_for_itself(make_model: Any, monkeypatch: pytest.MonkeyPatch):
    """Its layers read a configuration of their own; the policy's must not change while the trunk runs."""
    lm, used = CausalLM(make_model("llama"), precision="bfloat16"), []
    trunk = lm.with_body(value_trunk_of(lm.model))
    forward = trunk.body.forward

    def spied(**given: Any) -> Any:
        used.append((trunk.body.layers[0].self_attn.config._attn_implementation, lm.config._attn_implementation))
        return forward(**given)

    monkeypatch.setattr(trunk.body, "forward", spied)
    trunk.hidden(torch.arange(2, 14)[None])
    assert used == [("eager", "sdpa")]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_recomputed(family: str, make_model: Callable[..., Any]):
    """Rows of mixed lengths, one of them refilled, against each row alone."""
    model = make_model(family)
    lm, exact = CausalLM(model, precision="bfloat16"), CausalLM(model, precision="float32")
    decoder = SlotDecoder(lm, LENGTH)
    assert decoder.cached
    rows = [[4], [9, 30, 7], list(range(2, 12))]
    differ = False
    for step in range(4):
        got = lm.project(decoder.last_hidden(observe(rows))).log_softmax(-1)
        assert got.dtype == torch.float32
        for row, ids in enumerate(rows):
            with torch.no_grad():
                wanted = lm.project(lm.hidden(torch.tensor([ids]))[:, -1]).log_softmax(-1)
                precise = exact.project(exact.hidden(torch.tensor([ids]))[:, -1]).log_softmax(-1)
            torch.testing.assert_close(got[row : row + 1], wanted, atol=TOLERANCE, rtol=0)
            differ |= not torch.allclose(wanted, precise, atol=1e-4)
        rows = [[*ids, 17 + step] for ids in rows]
        if step == 2:
            rows[2] = [5, 6]
    assert differ, "nothing was computed in bfloat16"
    assert decoder._slots is not None
    kept = {slots.dtype for layer in decoder._slots.layers for slots in (layer.keys, layer.values)}
    assert kept == {torch.bfloat16}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_copies_give_the_numbers_of_autocast_and_follow_the_weights(family: str, make_model: Callable[..., Any]):
    """To the bit. GPT-2's linear layers are a class of transformers'."""
    lm = CausalLM(make_model(family), precision="bfloat16")
    decoder, ids = SlotDecoder(lm, LENGTH), observe([[4, 9, 30], [7, 8, 9]])
    for _ in range(2):
        got = decoder.last_hidden(ids)
        assert lm._copies is not None
        copied = [module for module in lm._copies._body.modules() if isinstance(module, (nn.Linear, Conv1D))]
        assert copied
        assert all(module.weight.dtype == torch.bfloat16 and not module.weight.requires_grad for module in copied)
        shared = {id(weight) for weight in lm.body.parameters()}
        rest = {id(weight) for weight in lm._copies._body.parameters() if weight.dtype == torch.float32}
        assert rest <= shared, "what is not multiplied is not copied"
        plain, plain._copies = SlotDecoder(lm, LENGTH), None  # type: ignore[attr-defined]
        lm._copies = NoCopies(lm.body)  # type: ignore[assignment]
        assert torch.equal(plain.last_hidden(ids), got)
        lm.drop_copies()
        decoder.last_hidden(ids)
        with torch.no_grad():
            for weight in lm.body.parameters():
                weight.mul_(1.1)
    assert not torch.equal(decoder.last_hidden(ids), got)


class NoCopies:
    """In the place of WeightCopies: the body itself, whose weights autocast converts."""

    def __init__(self, body: Any):
        self.body = body

    def are_of(self, *arguments: Any) -> bool:
        return True

    def current(self, version: Any) -> Any:
        return self.body


def episodes(random: torch.Generator | None = None) -> Any:
    ids = [[4, 9, 30, 7, 100], [7, 8, 9], list(range(40, 58)), [3, 2, 60, 61, 62, 63, 64]]
    return [Trajectory.of_response(torch.tensor(row[:1]).numpy(), torch.tensor(row[1:]).numpy()) for row in ids]


def test_an_update_frees_the_copies_and_leaves_gradients_in_float32(make_policy: Any):
    policy = make_policy(precision="bfloat16")
    policy.step(observe([[4, 9]]))
    assert policy.lm._copies is not None
    values, log_probs, entropy = policy.evaluate(pack(episodes(), "cpu"))
    assert policy.lm._copies is None
    assert {values.dtype, log_probs.dtype, entropy.dtype} == {torch.float32}
    (log_probs.sum() + values.sum()).backward()
    gradients = [weight.grad for weight in policy.parameters() if weight.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    exact = make_policy(precision="float32")
    result = exact.evaluate(pack(episodes(), "cpu"))
    (result.log_probs.sum() + result.values.sum()).backward()
    wanted = torch.cat([weight.grad.flatten() for weight in exact.parameters() if weight.grad is not None])
    got = torch.cat([gradient.flatten() for gradient in gradients])
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=0) > 0.999


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_stock_ppo_keeps_updates_that_half_precision_would_lose(trunk: str, tiny_task: Any):
    agent = make_agent(
        "ppo",
        n_envs=4,
        n_steps=8,
        n_epochs=1,
        learning_rate=1e-6,
        env_kwargs={"task": tiny_task, "precision": "bfloat16", "device": "cpu"},
        policy_kwargs={"value_trunk": trunk},
        seed=0,
    )
    core = agent.policy.actor_critic
    assert core.lm.dtype == torch.bfloat16
    assert agent.env.env.kl_penalty.reference.lm.dtype == torch.bfloat16
    before = {name: weight.detach().clone() for name, weight in core.named_parameters()}
    agent.learn(32)
    gap = agent.policy.sampler_gap.take()
    assert 0 < gap["objective/sampler_gap"] <= gap["objective/sampler_gap_max"] < TOLERANCE
    moved = {name for name, weight in core.named_parameters() if not torch.equal(weight, before[name])}
    lost = {name for name in moved if torch.equal(core.get_parameter(name).bfloat16(), before[name].bfloat16())}
    assert len(moved) > len(before) / 2
    assert lost, "these updates are large enough for half precision: the test shows nothing"
    assert {weight.dtype for weight in core.parameters()} == {torch.float32}


def test_training_half_precision_in_place_warns(tiny_task: Any):
    with pytest.warns(UserWarning, match=r"weights in bfloat16 are trained in place: .*precision='bfloat16'"):
        make_agent("ppo", n_envs=2, n_steps=4, env_kwargs={"task": tiny_task, "dtype": "bfloat16", "device": "cpu"})


def test_a_saved_policy_computes_as_it_did(make_policy: Any, tmp_path: Path):
    policy = make_policy(precision="bfloat16")
    policy.save_pretrained(tmp_path)
    assert CausalLMActorCritic.from_pretrained(tmp_path, device="cpu").lm.dtype == torch.bfloat16
    again = CausalLMActorCritic.from_pretrained(tmp_path, device="cpu", precision="float32")
    assert again.lm.dtype == torch.float32
    settings = json.loads((tmp_path / SETTINGS_FILE).read_text())
    assert settings.pop("precision") == "bfloat16"
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))  # as written before there was a precision
    assert CausalLMActorCritic.from_pretrained(tmp_path, device="cpu").lm.precision == "auto"


def test_a_moved_policy_leaves_nothing_behind(make_policy: Any):
    """Copies are of the weights where they were."""
    policy = make_policy(precision="bfloat16")
    before = policy.step(observe([[4, 9]]), deterministic=True)
    policy.float()
    assert policy.lm._copies is None
    assert torch.equal(policy.step(observe([[4, 9]]), deterministic=True).tokens, before.tokens)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu(family: str, make_model: Callable[..., Any], tiny_tokenizer: Any):
    """Sampling against one pass, and the gradient's type."""
    policy = CausalLMActorCritic(make_model(family).cuda(), tiny_tokenizer, max_length=LENGTH, precision="bfloat16")
    drawn = policy.step(observe([[4, 9], [7, 8, 100, 3]]).cuda())
    rows = [[4, 9], [7, 8, 100, 3]]
    played = [
        Trajectory.of_response(torch.tensor(ids).numpy(), drawn.tokens[row : row + 1].cpu().numpy())
        for row, ids in enumerate(rows)
    ]
    result = policy.evaluate(pack(played, "cuda"))
    torch.testing.assert_close(result.log_probs, drawn.log_probs, atol=0.25, rtol=0)
    result.log_probs.sum().backward()
    assert {weight.grad.dtype for weight in policy.parameters() if weight.grad is not None} == {torch.float32}


def test_the_reference_of_an_adapter_decodes_without_it(make_model: Any, tiny_tokenizer: Any):
    """Its copies too: stepwise log-probabilities are the base model's, also after the policy has decoded."""
    base = make_model("llama")
    adapted = load_model(make_model("llama"), tokenizer=tiny_tokenizer, device="cpu", lora={"r": 2}).model
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    policy = CausalLMActorCritic(adapted, tiny_tokenizer, max_length=LENGTH, precision="bfloat16")
    parts = (policy.vocabulary, policy.sampling, LENGTH)
    shared, plain = (Reference(model, *parts, precision="bfloat16") for model in (adapted, base))
    shown, tokens = observe([[4, 9, 30], [7, 8]]), torch.tensor([5, 6])
    for _ in range(2):
        drawn = policy.states(shown).logits.log_softmax(-1)[torch.arange(2), tokens]
        got, wanted = (each.step_log_probs(shown.numpy(), tokens.numpy()) for each in (shared, plain))
        np.testing.assert_allclose(got, wanted, atol=1e-6)
        assert np.abs(drawn.numpy() - wanted).max() > 0.1
