"""REINFORCE, RLOO and GRPO as SB3 algorithms: SB3's own update on advantages of whole responses.

What sets them apart from A2C and PPO is how advantages come to be, and that is the rollout buffer's work. All three
learn from the return with the KL in it, `score - kl_coef * kl`. (GRPO as published puts an estimate of the KL into
the loss, whose gradient is that of the reversed KL; Tang and Munos 2025, https://arxiv.org/abs/2506.09477.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3 import A2C, PPO

from textrl_agents.sb3.advantages import group_relative, leave_one_out, reward_to_go
from textrl_agents.sb3.ledger import EpisodeLedger
from textrl_agents.sb3.response_buffer import Estimate, Response, ResponseRolloutBuffer
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_env.errors import ConfigError


def to_go_minus_value(groups: Sequence[Sequence[Response]]) -> list[Estimate]:
    """REINFORCE's: the reward to go minus the value head's baseline."""
    to_go = [(response, reward_to_go(response.rewards)) for group in groups for response in group]
    return [Estimate(returns - response.values, returns) for response, returns in to_go]


def compared_in_group(groups: Sequence[Sequence[Response]], rule: Any) -> list[Estimate]:
    """RLOO's and GRPO's: one advantage for all tokens of a response, by `rule` of the returns [G, K]."""
    returns = np.array([[response.rewards.sum() for response in group] for group in groups], dtype=np.float64)
    responses = [response for group in groups for response in group]
    return [
        Estimate(np.full(len(response.rewards), advantage), np.full(len(response.rewards), total))
        for response, advantage, total in zip(responses, rule(returns).flat, returns.flat, strict=True)
    ]


class _WholeResponses:
    """An SB3 algorithm that trains where a rollout has completed something to train on."""

    def train(self) -> None:
        if self.rollout_buffer.has_batch:  # type: ignore[attr-defined]
            super().train()  # type: ignore[misc]


def _buffer(env: Any, estimator: Any, group_size: int, given: dict[str, Any] | None) -> dict[str, Any]:
    """The buffer's arguments of an SB3 algorithm."""
    kwargs: dict[str, Any] = {"estimator": estimator, "group_size": group_size, **(given or {})}
    if "ledger" not in kwargs and isinstance(env, TextVecEnv):
        kwargs["ledger"] = EpisodeLedger(env)
    return {"rollout_buffer_class": ResponseRolloutBuffer, "rollout_buffer_kwargs": kwargs}


def _check_group(group_size: Any) -> int:
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 2:
        raise ConfigError(f"group_size must be a whole number >= 2: responses to a prompt are compared; {group_size!r}")
    return group_size


class REINFORCE(_WholeResponses, A2C):
    """REINFORCE with a learned baseline (Williams 1992; Sutton and Barto 2018, section 13.4).

    Monte Carlo returns of whole responses, one update on each rollout, nothing bootstrapped. Arguments: A2C's.
    """

    def __init__(self, policy: Any, env: Any, *, rollout_buffer_kwargs: dict[str, Any] | None = None, **arguments: Any):
        buffer = _buffer(env, to_go_minus_value, 1, rollout_buffer_kwargs)
        super().__init__(policy, env, **{**arguments, **buffer})


class RLOO(_WholeResponses, PPO):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740).

    group_size: responses to each prompt, as the environment serves them. The other arguments are PPO's: with one epoch
    its clipped loss is REINFORCE's but for the steps between minibatches.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        group_size: int = 4,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        **arguments: Any,
    ):
        self.group_size = _check_group(group_size)
        rule = functools.partial(compared_in_group, rule=leave_one_out)
        super().__init__(policy, env, **{**arguments, **_buffer(env, rule, group_size, rollout_buffer_kwargs)})


class GRPO(_WholeResponses, PPO):
    """Group relative policy optimisation (Shao et al. 2024, https://arxiv.org/abs/2402.03300).

    group_size: responses to each prompt, as the environment serves them. scale: whether advantages are divided by their
    group's standard deviation. Every token weighs alike, whatever its response's length. The other arguments are PPO's.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        group_size: int = 8,
        scale: bool = True,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        **arguments: Any,
    ):
        self.group_size = _check_group(group_size)
        rule = functools.partial(compared_in_group, rule=functools.partial(group_relative, scale=scale))
        super().__init__(policy, env, **{**arguments, **_buffer(env, rule, group_size, rollout_buffer_kwargs)})
