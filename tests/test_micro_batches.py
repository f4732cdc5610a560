"""Activations computed again instead of kept: the same gradients, from less memory, under a stock update too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES

from textrl_agents.sb3 import make_agent
from textrl_env.errors import ConfigError, ModelError
from textrl_env.models import PackedEpisodes, pack
from textrl_env.models.compute.layer_checkpointing import LayerCheckpointing
from textrl_env.trajectory import Trajectory

LENGTHS = (3, 25, 9, 17, 25, 1, 12)


def packed_episodes(lengths: tuple[int, ...] = LENGTHS) -> PackedEpisodes:
    random = np.random.default_rng(0)
    return pack([Trajectory.of_response(random.integers(2, 90, 4), random.integers(2, 90, n)) for n in lengths], "cpu")


def test_parts_hold_every_transition_once():
    packed = packed_episodes()
    seen = []
    for part, place in packed.parts(40):
        assert part.input_ids.numel() <= 40
        assert np.array_equal(
            part.lengths, [int((part.columns[part.rows == row]).max()) + 1 for row in range(len(part.lengths))]
        )
        for m, at in enumerate(place.tolist()):
            row, column = packed.rows[at], packed.columns[at] + 1
            assert torch.equal(part.input_ids[part.rows[m], : part.columns[m] + 1], packed.input_ids[row, :column])
            assert part.actions[m] == packed.actions[at]
        seen += place.tolist()
    assert sorted(seen) == list(range(len(packed)))
    assert len(list(packed.parts(1))) == len(LENGTHS), "a sequence is never cut"
    assert len(list(packed.parts(10**6))) == 1


def evaluated(policy: Any, packed: PackedEpisodes) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Results and gradients of one update's loss, and the elements that its graph keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    policy.zero_grad()
    weights = {weight.data_ptr() for weight in policy.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values, log_probs, entropy = policy.evaluate(packed)
    torch.manual_seed(0)
    mixed = torch.stack([values, log_probs, entropy])
    (mixed * torch.randn_like(mixed)).sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None])
    return mixed.detach(), gradient, sum(kept.values())


MEMORY: dict[str, dict[str, Any]] = {
    "micro-batches": {"micro_batch_tokens": 40},
    "layers": {"gradient_checkpointing": True},
    "both": {"micro_batch_tokens": 40, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize("how", MEMORY)
def test_the_same_numbers_and_gradients_from_less(how: str, trunk: str, make_policy: Callable[..., Any]):
    packed = packed_episodes()
    policies = [make_policy(value_trunk=trunk, **settings) for settings in ({}, MEMORY[how])]
    for policy in policies:  # a value head of zeros would hide what comes from the trunk
        torch.nn.init.ones_(policy.value_head.weight)
    (plain, wanted, kept), (mixed, got, kept_less) = (evaluated(policy, packed) for policy in policies)
    torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-6)
    scale = float(wanted.abs().max())
    torch.testing.assert_close(got / scale, wanted / scale, atol=1e-6, rtol=1e-6)
    assert kept_less < kept / 2


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_layers_of_short_half_precision_sequences_are_computed_again_by_the_same_attention(
    trunk: str, make_policy: Callable[..., Any]
):
    """Which is not the model's own choice on a CPU; twice from one graph, as second-order methods ask for."""
    packed = packed_episodes((3, 9))
    plain, checkpointed = (
        make_policy(precision="bfloat16", value_trunk=trunk, gradient_checkpointing=on) for on in (False, True)
    )
    wanted, got = (evaluated(policy, packed)[1] for policy in (plain, checkpointed))
    assert wanted.abs().max() > 0
    assert torch.equal(got, wanted)
    weight = next(iter(checkpointed.lm.body.parameters()))
    total = checkpointed.evaluate(packed).log_probs.sum()
    once, again = (torch.autograd.grad(total, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)
    assert checkpointed.lm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_has_layers_to_checkpoint(family: str, make_model: Any, make_policy: Callable[..., Any]):
    packed = packed_episodes((3, 9))
    models = [make_model(family), make_model(family)]
    (plain, wanted, kept), (mixed, got, kept_less) = (
        evaluated(make_policy(model, gradient_checkpointing=on), packed)
        for model, on in zip(models, (False, True), strict=True)
    )
    assert torch.equal(mixed, plain)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)
    assert kept_less < kept
    assert not any(module.training for module in models[1].modules())


def test_what_is_kept_does_not_grow_with_the_minibatch(make_policy: Callable[..., Any]):
    """Ids and results of each part, and no activations of any."""
    policy = make_policy(micro_batch_tokens=64)
    few, many = (evaluated(policy, packed_episodes((25,) * count))[2] for count in (4, 16))
    tokens = 25 + 4
    assert many - few <= 12 * tokens * 12, "a dozen numbers a token"
    assert evaluated(make_policy(), packed_episodes((25,) * 4))[2] > 5 * many


def test_micro_batches_in_bfloat16(make_policy: Callable[..., Any]):
    """What is computed again is computed in the same type."""
    packed = packed_episodes()
    (plain, wanted, _), (mixed, got, _) = (
        evaluated(make_policy(precision="bfloat16", micro_batch_tokens=tokens), packed) for tokens in (None, 40)
    )
    torch.testing.assert_close(mixed, plain, atol=0.05, rtol=0.05)
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=0) > 0.999


def test_layers_that_drop_out_by_themselves_are_refused(make_model: Any):
    """OPT's layers do, whatever mode their parts are in."""
    model = make_model(
        "opt",
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        vocab_size=320,
        max_position_embeddings=64,
        dropout=0.5,
    )
    with pytest.raises(ModelError, match=r"computes other numbers when its layers are checkpointed.*dropout to 0"):
        LayerCheckpointing(model.get_decoder())
    assert not any(module.training for module in model.modules())


def test_bad_settings(make_policy: Callable[..., Any]):
    for bad in (0, -1, 2.5, True, "many"):
        with pytest.raises(ConfigError, match="micro_batch_tokens must be a whole number >= 1"):
            make_policy(micro_batch_tokens=bad)
    with pytest.raises(ModelError, match="Linear has no layers that can be checkpointed"):
        LayerCheckpointing(torch.nn.Linear(2, 2))


def test_stock_ppo_learns_the_same(tiny_task: Any):
    """One update of SB3's own `train()`, from the same rollout: weights equal to rounding."""
    ends = []
    for settings in ({}, {"micro_batch_tokens": 40, "gradient_checkpointing": True}):
        agent = make_agent(
            "ppo",
            n_envs=4,
            n_steps=16,
            n_epochs=1,
            batch_size=64,
            learning_rate=0.1,  # the change is large beside the rounding of the weights
            env_kwargs={"task": tiny_task, "device": "cpu"},
            policy_kwargs={**settings, "optimizer_class": torch.optim.SGD},
            seed=0,
        )
        before = torch.cat([weight.detach().flatten() for weight in agent.policy.parameters()])
        agent.learn(64)
        ends.append(torch.cat([weight.detach().flatten() for weight in agent.policy.parameters()]) - before)
    moved = float(ends[0].abs().max())
    assert moved > 0
    torch.testing.assert_close(ends[1] / moved, ends[0] / moved, atol=1e-3, rtol=0)
    assert math.isfinite(moved)
