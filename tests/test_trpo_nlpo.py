"""TRPO's one backward pass against the stock one for each weight, and NLPO's mask as part of the distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from conftest import quick
from suffixes import pack_suffixes
from torch.distributions import kl_divergence

from textrl_agents.sb3 import make_agent
from textrl_env.errors import ConfigError
from textrl_env.models import SamplingParams
from textrl_env.models.sampling import truncate
from textrl_env.tasks import Task

# --- TRPO -------------------------------------------------------------------------------------------------


def test_gradients_in_one_pass_are_the_stock_ones(tiny_task: Task):
    agent = make_agent("trpo", n_envs=4, n_steps=8, env_kwargs={"task": tiny_task}, seed=0)
    results: list[Any] = []
    original = agent._compute_actor_grad

    def compare(divergence: torch.Tensor, objective: torch.Tensor) -> Any:
        stock = sb3_contrib.TRPO._compute_actor_grad(agent, divergence, objective)
        ours = original(divergence, objective)
        results.append((stock, ours))
        vector = torch.randn(len(ours[1]), generator=torch.Generator().manual_seed(0))
        products = [agent.hessian_vector_product(each[0], each[2], vector) for each in (stock, ours)]
        torch.testing.assert_close(products[0], products[1], atol=1e-5, rtol=1e-4)
        return ours

    agent._compute_actor_grad = compare
    agent.learn(32)
    stock, ours = results[0]
    assert [id(weight) for weight in stock[0]] == [id(weight) for weight in ours[0]]
    assert [tuple(shape) for shape in stock[3]] == ours[3]
    torch.testing.assert_close(stock[1], ours[1], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(stock[2], ours[2], atol=1e-6, rtol=1e-4)
    assert float(ours[1].abs().sum()) > 0


@pytest.mark.parametrize("value_trunk", quick(["shared"], ["shared", "separate"]))
def test_a_step_stays_in_its_trust_region_and_the_critic_does_not_move_the_policy(value_trunk: str, tiny_task: Task):
    agent = make_agent(
        "trpo",
        n_envs=8,
        n_steps=16,
        env_kwargs={"task": tiny_task},
        seed=0,
        target_kl=0.01,
        policy_kwargs={"value_trunk": value_trunk},
    )
    measured: list[float] = []
    agent.train = _measuring(agent, agent.train, measured)
    agent.learn(3 * 128)
    assert len(measured) == 3
    assert max(measured) <= 0.0101  # of the line search, and the critic's update after it
    assert max(measured) > 0.001


def _measuring(agent: Any, original: Any, measured: list[float]) -> Any:
    def train() -> None:
        (data,) = agent.rollout_buffer.get(None)
        with torch.no_grad():
            before = agent.policy.get_distribution(data.observations).distribution
        original()
        with torch.no_grad():
            after = agent.policy.get_distribution(data.observations).distribution
        measured.append(float(kl_divergence(after, before).mean()))

    return train


def test_it_runs_eager_attention_and_leaves_the_reference_its_own(tiny_task: Task):
    agent = make_agent("trpo", n_envs=2, n_steps=4, env_kwargs={"task": tiny_task}, seed=0)
    assert agent.policy.actor_critic.model.config._attn_implementation == "eager"
    assert agent.env.env.kl_penalty.reference.lm.model.config._attn_implementation != "eager"


# --- NLPO -------------------------------------------------------------------------------------------------


def masked(tiny_task: Task, **arguments: Any) -> Any:
    return make_agent(
        "nlpo",
        env_kwargs={"task": tiny_task},
        seed=0,
        **{"n_envs": 4, "n_steps": 8, "policy_kwargs": {"mask_top_p": 0.6}, **arguments},
    )


def test_the_distribution_is_the_policys_within_the_masks_top_p(tiny_task: Task):
    """Against the definition: softmax of the policy's logits over the smallest set of the mask's likeliest tokens."""
    agent = masked(tiny_task)
    core = agent.policy.actor_critic
    with torch.no_grad():
        for weight in core.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    obs = torch.from_numpy(agent.env.reset())
    ids = [row[row >= 0] for row in obs]
    for row, prefix in enumerate(ids):
        with torch.no_grad():
            own = core.model(input_ids=prefix[None]).logits[0, -1]
            masking = core.mask_model(input_ids=prefix[None]).logits[0, -1]
        kept = ~torch.isinf(truncate(masking[None], SamplingParams(top_p=0.6), None)[0])
        assert 0 < int(kept.sum()) < len(kept)
        expected = own.masked_fill(~kept, -torch.inf).softmax(-1)
        got = core.states(obs).logits[row].softmax(-1)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_sampling_and_update_agree_on_the_log_probabilities(tiny_task: Task):
    """CHECKS 26, with the mask in both; and what is sampled lies within it."""
    agent = masked(tiny_task, learning_rate=0.0)
    worst: list[float] = []
    original = agent.train

    def train() -> None:
        for data in agent.rollout_buffer.get(None):
            _, log_probs, _ = agent.policy.evaluate_actions(data.observations, data.actions)
            worst.append(float((log_probs - data.old_log_prob).detach().abs().max()))
            assert float(log_probs.detach().min()) > -25
        original()

    agent.train = train
    agent.learn(4 * 32)
    assert len(worst) == 4
    assert max(worst) < 1e-5


def test_the_mask_follows_every_so_many_rollouts_and_is_never_trained(tiny_task: Task):
    agent = masked(tiny_task, mask_every=2, learning_rate=1e-2)
    core = agent.policy.actor_critic
    name = "model.embed_tokens.weight"
    seen = []
    original = agent.train

    def train() -> None:
        before = core.mask_model.state_dict()[name].clone()
        original()
        assert torch.equal(core.mask_model.state_dict()[name], before)
        seen.append((before, core.model.state_dict()[name].detach().clone()))

    agent.train = train
    agent.learn(5 * 32)
    masks, policies = zip(*seen, strict=True)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], policies[1])
    assert torch.equal(masks[3], masks[2])
    assert torch.equal(masks[4], policies[3])
    assert not torch.equal(masks[2], masks[0])
    assert not any(parameter.requires_grad for parameter in core.mask_model.parameters())


def test_the_value_head_sees_the_policys_states_alone(tiny_task: Task):
    agent = masked(tiny_task)
    core = agent.policy.actor_critic
    torch.nn.init.normal_(core.value_head.weight)
    packed = pack_suffixes([np.array([5, 9, 20, 31])], [2], "cpu")
    with torch.no_grad():
        before = core.evaluate(packed).values
        for weight in core.mask_model.parameters():
            weight.mul_(1.5)
        torch.testing.assert_close(core.evaluate(packed).values, before)


def test_settings_that_cannot_work(tiny_task: Task):
    with pytest.raises(ConfigError, match="mask_top_p must be between 0 and 1"):
        masked(tiny_task, policy_kwargs={"mask_top_p": 1.5})
    with pytest.raises(ConfigError, match="mask_every must be a whole number >= 1"):
        masked(tiny_task, mask_every=0)
    with pytest.raises(ConfigError, match="kl_estimator='full' does not know"):
        make_agent("nlpo", env_kwargs={"task": tiny_task, "kl_estimator": "full"})
