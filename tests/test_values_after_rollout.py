"""A separate value trunk runs no step of its own while tokens are sampled: the buffer fills the values in later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.policy import CausalLMPolicy

ROLLOUT: dict[str, Any] = {"n_envs": 4, "n_steps": 10, "seed": 0, "learning_rate": 0.0, "progress": False}
RECORDED = ("actions", "rewards", "values", "advantages", "returns", "log_probs")


def agent_of(algo: str = "ppo", **env: Any) -> Any:
    """With a value trunk and head that differ from the policy's."""
    env_kwargs = {"task": "exact", "device": "cpu", **env}
    agent = make_agent(algo, env_kwargs=env_kwargs, policy_kwargs={"value_trunk": "separate"}, **ROLLOUT)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in agent.policy.actor_critic.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return agent


def stepwise(agent: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same agent, which computes its values at each step, and whose buffer takes those."""

    def forward(policy: Any, obs: torch.Tensor, deterministic: bool = False) -> Any:
        policy.values_after_rollout = False
        return original(policy, obs, deterministic)

    original = CausalLMPolicy.forward
    monkeypatch.setattr(CausalLMPolicy, "forward", forward)
    agent.policy.actor_critic.value_trunk = "shared"
    return agent


def forwards(agent: Any) -> list[tuple[int, ...]]:
    """Notes the shape of what the value trunk runs from here on."""
    seen: list[tuple[int, ...]] = []
    agent.policy.actor_critic.value_body.register_forward_pre_hook(
        lambda module, given, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return seen


def test_one_forward_of_the_value_trunk_a_rollout():
    """And one for the values of the last states; only the very first step, of an agent that nobody is bound to yet,
    computes its own."""
    agent = agent_of()
    agent.train = lambda: None
    assert agent.policy.actor_critic._value_lm.shares_prefixes(1), "which is tried once"
    seen = forwards(agent)
    agent.learn(40)
    assert len(seen) == 1 + 1 + 1
    seen.clear()
    for _ in range(3):
        agent.learn(40, reset_num_timesteps=False)
    assert len(seen) == 3 * 2
    assert [rows for rows, _ in seen[::2]] == [4] * 3, "the last states, one a row"
    assert all(rows > 4 for rows, _ in seen[1::2]), "the sequences of a rollout"


@pytest.mark.parametrize(("algo", "limit"), [("ppo", None), ("ppo", 3), ("a2c", None), ("reinforce", None)])
def test_values_and_what_is_made_of_them_are_those_of_single_steps(
    algo: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
):
    """Over rollouts that cut episodes, and a time limit whose last states are bootstrapped from."""
    records = []
    for later in (True, False):
        agent, rows = agent_of(algo, max_episode_steps=limit), []
        agent = agent if later else stepwise(agent, monkeypatch)
        agent.train = lambda agent=agent, rows=rows: rows.extend(
            getattr(agent.rollout_buffer, name).copy() for name in RECORDED
        )
        seen = forwards(agent)
        agent.learn(3 * 40)
        assert later == (sum(rows == 4 for rows, _ in seen) < 10), "not the way that was meant"
        records.append(rows)
    for one, other in zip(*records, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert len(records[0]) == 3 * len(RECORDED)
    assert np.abs(records[0][2]).max() > 0.05


def test_a_stock_buffer_gets_the_values_of_each_step():
    agent = agent_of()
    agent.rollout_buffer = RolloutBuffer(10, agent.observation_space, agent.action_space, "cpu", n_envs=4)
    agent.train = lambda: None
    agent.learn(40)
    observations = torch.from_numpy(agent.rollout_buffer.observations.astype(np.int64)).flatten(0, 1)
    values = agent.policy.predict_values(observations).detach().numpy().reshape(10, 4)
    np.testing.assert_allclose(agent.rollout_buffer.values, values, rtol=1e-5, atol=1e-5)
    assert np.isfinite(agent.rollout_buffer.advantages).all()


class _Look(BaseCallback):
    """Asks the policy for values in mid-rollout, and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.during: list[torch.Tensor] = []
        self.after: list[torch.Tensor] = []

    def _ask(self) -> torch.Tensor:
        return self.model.policy(torch.from_numpy(self.model._last_obs))[1]  # type: ignore[operator, arg-type]

    def _on_step(self) -> bool:
        self.during.append(self._ask())
        return True

    def _on_rollout_end(self) -> None:
        self.after.append(self._ask())


def test_unknown_values_are_nan_and_only_within_a_rollout():
    """Never a number that is not the value."""
    agent, look = agent_of(), _Look()
    agent.train = lambda: None
    agent.learn(80, callback=look)
    assert all(values.isnan().all() for values in look.during[1:])
    assert all(values.isfinite().all() for values in look.after)
    assert len(look.after) == 2
