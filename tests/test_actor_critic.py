"""The policy core: what acts is what is evaluated, the value head starts at 0, and a saved policy is the policy."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from safetensors.torch import save_file
from suffixes import pack_suffixes
from transformers import AutoModelForCausalLM, AutoTokenizer

from textrl_env.errors import ConfigError, ModelError, TokenizerMismatch
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, SamplingParams
from textrl_env.models.sampling import entropy_of

PROMPTS = [[4, 9, 30], [7], [100, 200, 300, 31, 8]]
MakePolicy = Callable[..., CausalLMActorCritic]


def roll(policy: CausalLMActorCritic, steps: int = 6) -> tuple[PackedEpisodes, torch.Tensor, torch.Tensor]:
    """Three rows sampled for some steps: whole sequences, and the log-probs and values noted while acting [M]."""
    observations = torch.full((3, policy.max_length), -1)
    for row, ids in enumerate(PROMPTS):
        observations[row, : len(ids)] = torch.tensor(ids)
    lengths = torch.tensor([len(ids) for ids in PROMPTS])
    noted = []
    for step in range(steps):
        action = policy.step(observations)
        values = policy.states(observations).values if action.values is None else action.values
        observations[torch.arange(3), lengths + step] = action.tokens
        noted.append((action.log_probs, values))
    sequences = [ids[ids >= 0].numpy() for ids in observations]
    log_probs, values = (torch.stack(column, dim=1).flatten() for column in zip(*noted, strict=True))
    return pack_suffixes(sequences, lengths.tolist(), "cpu"), log_probs, values


def with_value_head(policy: CausalLMActorCritic) -> CausalLMActorCritic:
    torch.nn.init.normal_(policy.value_head.weight)
    return policy


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_the_ratio_of_acting_and_evaluating_is_one(
    family: str, value_trunk: str, make_model: Any, make_policy: MakePolicy
):
    """CHECKS 26: to 1e-5, with dropout in the model's configuration and the policy told to train."""
    names = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop")}.get(family, ("attention_dropout",))
    model = make_model(family, **dict.fromkeys(names, 0.5)).train()
    policy = with_value_head(make_policy(model, value_trunk=value_trunk, sampling=SamplingParams(temperature=0.7)))
    policy.train()
    packed, log_probs, values = roll(policy)
    evaluated = policy.evaluate(packed)
    torch.testing.assert_close((evaluated.log_probs - log_probs).exp(), torch.ones(18), atol=1e-5, rtol=0)
    torch.testing.assert_close(evaluated.values, values, atol=1e-5, rtol=1e-5)
    assert values.abs().min() > 0
    assert not model.training


def test_evaluation_is_the_plain_models(make_policy: MakePolicy):
    """Against `transformers` itself, one prefix at a time."""
    policy = with_value_head(make_policy())
    packed, _, _ = roll(policy)
    evaluated = [each.tolist() for each in policy.evaluate(packed)]
    for m in range(len(packed)):
        prefix = packed.input_ids[packed.rows[m], : packed.columns[m] + 1][None]
        with torch.no_grad():
            output = policy.model(input_ids=prefix, output_hidden_states=True)
        log_probs = output.logits[0, -1].masked_fill(policy.banned, -torch.inf).log_softmax(-1)
        value = policy.value_head(output.hidden_states[-1][0, -1]).detach()
        wanted = [float(value), float(log_probs[packed.actions[m]]), float(entropy_of(log_probs[None]))]
        assert [column[m] for column in evaluated] == pytest.approx(wanted, abs=1e-4)


def test_other_actions_can_be_evaluated(make_policy: MakePolicy):
    policy = make_policy()
    packed, _, _ = roll(policy)
    others = (packed.actions + 1) % 300
    again = dataclasses.replace(packed, actions=others)
    torch.testing.assert_close(policy.evaluate(packed, others).log_probs, policy.evaluate(again).log_probs)


def test_the_value_head_starts_at_zero(make_policy: MakePolicy):
    """CHECKS 28: every first value is 0, and the first value loss moves the head but not the trunk."""
    policy = make_policy()
    packed, _, values = roll(policy)
    assert values.tolist() == [0.0] * 18
    (policy.evaluate(packed).values - 1.0).square().sum().backward()
    assert policy.value_head.weight.grad.abs().max() > 0
    assert max(float(p.grad.abs().max()) for p in policy.model.parameters() if p.grad is not None) == 0.0


@pytest.mark.parametrize(("value_trunk", "reaches_policy"), [("shared", True), ("separate", False)])
def test_the_value_loss_reaches_the_policy_through_a_shared_trunk_alone(
    value_trunk: str, reaches_policy: bool, make_policy: MakePolicy
):
    policy = with_value_head(make_policy(value_trunk=value_trunk))
    packed, _, _ = roll(policy)
    policy.evaluate(packed).values.square().sum().backward()
    gradients = [p.grad.abs().max() for p in policy.model.parameters() if p.grad is not None]
    assert (len(gradients) > 0 and max(gradients) > 0) == reaches_policy
    if not reaches_policy:
        assert max(p.grad.abs().max() for p in policy.value_body.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_after_an_update_nothing_is_stale(value_trunk: str, make_policy: MakePolicy):
    """CHECKS 5 and 27: acting goes on from the same prefixes with the new weights, in policy and values."""
    policy = with_value_head(make_policy(value_trunk=value_trunk))
    packed, log_probs, _ = roll(policy)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=0.01)
    evaluated = policy.evaluate(packed)
    (evaluated.log_probs.sum() + evaluated.values.sum()).backward()
    optimizer.step()
    after = policy.evaluate(packed)
    assert (after.log_probs - log_probs).abs().max() > 0.01, "the update changed nothing"
    states = torch.full((len(packed), policy.max_length), -1)
    for m, (row, column) in enumerate(zip(packed.rows.tolist(), packed.columns.tolist(), strict=True)):
        states[m, : column + 1] = packed.input_ids[row, : column + 1]
    torch.testing.assert_close(policy.states(states).values, after.values.detach(), atol=1e-5, rtol=1e-5)
    stepwise = policy.states(states).logits.log_softmax(-1)[torch.arange(len(packed)), packed.actions]
    torch.testing.assert_close(stepwise, after.log_probs.detach(), atol=1e-5, rtol=0)


def test_cache_off_gives_the_same(make_policy: MakePolicy):
    """CHECKS 5: the same seed draws the same tokens with equal log-probs."""
    results = []
    for cache in (True, False):
        torch.manual_seed(3)
        results.append(roll(with_value_head(make_policy(make_policy().model, cache=cache))))
    (cached, *cached_noted), (recomputed, *recomputed_noted) = results
    assert torch.equal(cached.actions, recomputed.actions)
    torch.testing.assert_close(cached_noted[0], recomputed_noted[0], atol=1e-5, rtol=0)


def test_ids_that_the_tokenizer_does_not_know_are_never_sampled(make_policy: MakePolicy, tiny_tokenizer: Any):
    """CHECKS 15: a head padded to a round number, whose surplus ids here are by far the likeliest."""
    policy = make_policy()
    unknown = ~policy.vocabulary.known
    surplus = 320 - len(tiny_tokenizer)
    assert unknown.sum() == surplus > 0
    original = policy.lm.project
    policy.lm.project = lambda hidden: original(hidden) + 100.0 * torch.from_numpy(unknown)
    state = torch.tensor([[4, 9, -1]]).repeat(500, 1)
    tokens = policy.step(state).tokens.numpy()
    assert not unknown[tokens].any()
    assert not unknown[policy.step(state, deterministic=True).tokens.numpy()].any()
    assert torch.isinf(policy.states(state).logits[0, torch.from_numpy(unknown)]).all()
    packed, log_probs, _ = roll(policy)
    torch.testing.assert_close(policy.evaluate(packed).log_probs, log_probs, atol=1e-5, rtol=0)


def test_a_tokenizer_with_more_ids_than_the_head_is_refused(make_model: Any, make_policy: MakePolicy):
    """CHECKS 15: an impossible pairing."""
    with pytest.raises(TokenizerMismatch, match=r"ids up to 31\d, but the model's head emits only 100 tokens"):
        make_policy(make_model("llama", vocab_size=100))


def test_greedy(make_policy: MakePolicy):
    policy = make_policy()
    state = torch.tensor([[4, 9, 30, -1]])
    action = policy.step(state, deterministic=True)
    assert int(action.tokens) == int(policy.states(state).logits.argmax())
    assert float(action.log_probs) == 0.0


def test_a_copy_is_independent(make_policy: MakePolicy):
    policy = make_policy()
    packed, log_probs, _ = roll(policy)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        other.model.lm_head.weight.zero_()
    torch.testing.assert_close(policy.evaluate(packed).log_probs, log_probs, atol=1e-5, rtol=0)
    assert len(set(other.states(torch.tensor([[4, 9, 30, -1]])).logits[0, :100].tolist())) == 1


@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_saving_and_loading(value_trunk: str, make_policy: MakePolicy, tmp_path: Path):
    """Log-probs, values, entropies and settings; no pickle among the files."""
    sampling = SamplingParams(temperature=0.7, top_k=100)
    policy = with_value_head(make_policy(value_trunk=value_trunk, sampling=sampling, max_length=24))
    if policy.value_body is not None:
        torch.nn.init.normal_(policy.value_body.norm.weight)
    policy.save_pretrained(tmp_path)
    loaded = CausalLMActorCritic.from_pretrained(tmp_path, device="cpu")
    assert (loaded.sampling, loaded.max_length, loaded.value_trunk) == (sampling, 24, value_trunk)
    packed, _, _ = roll(policy)
    torch.testing.assert_close(tuple(loaded.evaluate(packed)), tuple(policy.evaluate(packed)), atol=1e-6, rtol=0)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
    assert CausalLMActorCritic.from_pretrained(tmp_path, device="cpu", max_length=30).max_length == 30


def test_plain_transformers_loads_a_saved_policy(make_policy: MakePolicy, tmp_path: Path):
    """CHECKS 42: by AutoModelForCausalLM alone, with equal logits, and the tokenizer beside it."""
    policy = with_value_head(make_policy())
    policy.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    ids = torch.tensor(PROMPTS[2])[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, policy.model(input_ids=ids).logits, atol=0, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "the soup \U0001f600"
    assert tokenizer(text)["input_ids"] == policy.tokenizer(text)["input_ids"]


def test_what_cannot_be_loaded(make_policy: MakePolicy, tmp_path: Path):
    """Errors name the file."""
    with pytest.raises(ModelError, match=r"has no actor_critic\.json.*use load_model"):
        CausalLMActorCritic.from_pretrained(tmp_path)
    make_policy().save_pretrained(tmp_path)
    head = tmp_path / "value_head.safetensors"
    good = head.read_bytes()
    head.write_bytes(good[:-3])
    with pytest.raises(ModelError, match=r"value_head\.safetensors cannot be read"):
        CausalLMActorCritic.from_pretrained(tmp_path)
    for state in ({"value_head.weight": torch.zeros(1, 7), "value_head.bias": torch.zeros(1)}, {"x": torch.zeros(1)}):
        save_file(state, head)
        with pytest.raises(ModelError, match=r"value_head\.safetensors does not fit"):
            CausalLMActorCritic.from_pretrained(tmp_path)
    head.write_bytes(good)
    settings = tmp_path / "actor_critic.json"
    settings.write_text(settings.read_text()[:-9])
    with pytest.raises(ModelError, match=r"actor_critic\.json"):
        CausalLMActorCritic.from_pretrained(tmp_path)


def test_an_unknown_trunk_is_refused(make_policy: MakePolicy):
    with pytest.raises(ConfigError, match="value_trunk must be one of shared, separate, got 'both'"):
        make_policy(value_trunk="both")
