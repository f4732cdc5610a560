"""REINFORCE, RLOO and GRPO as SB3 algorithms: SB3's own update on advantages of whole responses.

What sets them apart from PPO is how advantages come to be, and that is the rollout buffer's work. All three
learn from the return with the KL in it, `score - kl_coef * kl`. (GRPO as published puts an estimate of the KL into
the loss, whose gradient is that of the reversed KL; Tang and Munos 2025, https://arxiv.org/abs/2506.09477.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3 import PPO

from textrl_agents.sb3.buffers.response_buffer import Estimate, Estimator, ResponseRolloutBuffer
from textrl_env.errors import ConfigError
from textrl_env.trajectory import Trajectory
from textrl_env.user_values import check_names

NO_CLIPPING = 1e6  # beyond any ratio; finite, because it is logged


def reward_to_go(rewards: np.ndarray) -> np.ndarray:
    """The undiscounted sum of the rewards from each token on, [T] of rewards [T]."""
    to_go: np.ndarray = np.cumsum(rewards[::-1])[::-1]
    return to_go


def leave_one_out(returns: np.ndarray) -> np.ndarray:
    """Each response's return minus the mean return of the others to its prompt, [G, K] of returns [G, K].

    One without others, K = 1, has no baseline.

    Kool et al. 2019; RLOO of Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, section 3.2.
    """
    size = returns.shape[1]
    if size == 1:
        return returns
    compared: np.ndarray = (returns - returns.mean(axis=1, keepdims=True)) * (size / (size - 1))
    return compared


def group_relative(returns: np.ndarray, *, scale: bool = True, epsilon: float = 1e-4) -> np.ndarray:
    """Each response's return minus its group's mean, over the group's standard deviation, [G, K] of returns [G, K].

    GRPO of Shao et al. 2024, https://arxiv.org/abs/2402.03300, equation 3 and section 4.1.2.
    scale: False leaves the division out (Liu et al. 2025, https://arxiv.org/abs/2503.20783): it makes a prompt whose
        responses are nearly alike weigh as much as any other. epsilon: added to the deviation.
    """
    centred: np.ndarray = returns - returns.mean(axis=1, keepdims=True)
    if scale and returns.shape[1] > 1:  # with K - 1 in the denominator, as in TRL
        centred = centred / (returns.std(axis=1, ddof=1, keepdims=True) + epsilon)
    return centred


def to_go_minus_value(groups: Sequence[Sequence[Trajectory]]) -> list[Estimate]:
    """REINFORCE's: the reward to go minus the value head's baseline."""
    to_go = [(response, reward_to_go(response.rewards)) for group in groups for response in group]
    return [Estimate(returns - response.values, returns) for response, returns in to_go]


def compared_in_group(groups: Sequence[Sequence[Trajectory]], rule: Any) -> list[Estimate]:
    """RLOO's and GRPO's: one advantage for all tokens of a response, by `rule` of the returns [G, K]."""
    returns = np.array([[response.episode_return for response in group] for group in groups])
    responses = [response for group in groups for response in group]
    return [
        Estimate(np.full(len(response), advantage), np.full(len(response), total))
        for response, advantage, total in zip(responses, rule(returns).flat, returns.flat, strict=True)
    ]


def turn_starts(response: Trajectory) -> np.ndarray:
    """Where, among its actions, the turns of an episode begin: int64 [n]; 0 alone of a single response."""
    lengths = [turn["tokens"] for turn in response.turns or ()]
    starts = np.cumsum([0, *lengths])
    return starts[starts < len(response)]


def compared_by_turn(groups: Sequence[Sequence[Trajectory]], rule: Any) -> list[Estimate]:
    """RLOO's and GRPO's, turn by turn: the return from a turn on, by `rule` of those of the group from that turn on.

    An episode is compared in its turn t with those that have a turn t.

    By leave-one-out the gradient is unbiased. The baseline of an action in turn t depends on the group's other episodes
    alone, and given the opening these are independent of it: E[grad log pi(a | s) * b] = E[grad log pi(a | s)] * E[b],
    which is 0, as for whole episodes. A mean that the episode itself is in, as GRPO's, shrinks a turn's part of the
    gradient by (n - 1) / n where n of the group reach the turn, so late turns weigh less; division by the deviation is
    biased as it is for whole episodes.
    """
    estimates: list[Estimate] = []
    for group in groups:
        to_go = [reward_to_go(response.rewards) for response in group]
        starts = [turn_starts(response) for response in group]
        advantages, returns = ([np.zeros(len(response)) for response in group] for _ in range(2))
        for turn in range(max(map(len, starts))):
            having = [k for k, places in enumerate(starts) if len(places) > turn]
            found = np.array([to_go[k][starts[k][turn]] for k in having])
            for k, advantage, total in zip(having, rule(found[None])[0], found, strict=True):
                stretch = slice(starts[k][turn], None)  # later turns overwrite their own part
                advantages[k][stretch], returns[k][stretch] = advantage, total
        estimates += map(Estimate, advantages, returns)
    return estimates


COMPARISONS = {"episode": compared_in_group, "turn": compared_by_turn}
"""What a group's advantages are of, by the setting `compare`."""


def _group_buffer(compare: Any, rule: Any, group_size: int) -> dict[str, Any]:
    check_names("compare", [compare], COMPARISONS)
    return _buffer(functools.partial(COMPARISONS[compare], rule=rule), group_size)


class _WholeResponses:
    """An SB3 algorithm that trains where a rollout has completed something to train on."""

    def train(self) -> None:
        if self.rollout_buffer.has_batch:  # type: ignore[attr-defined]
            super().train()  # type: ignore[misc]


def _buffer(estimator: Estimator, group_size: int = 1) -> dict[str, Any]:
    """The buffer's arguments of an SB3 algorithm."""
    kwargs = {"estimator": estimator, "group_size": group_size}
    return {"rollout_buffer_class": ResponseRolloutBuffer, "rollout_buffer_kwargs": kwargs}


def _check_group(group_size: Any) -> int:
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 2:
        raise ConfigError(f"group_size must be a whole number >= 2: responses to a prompt are compared; {group_size!r}")
    return group_size


class REINFORCE(_WholeResponses, PPO):
    """REINFORCE with a learned baseline (Williams 1992; Sutton and Barto 2018, section 13.4).

    Monte Carlo returns of whole responses, one update on each rollout, nothing bootstrapped. It is PPO's update on all
    of a rollout at once, without clipping: the gradient of `ratio * advantage`, which is that of `log pi * advantage`
    for a token that the present policy sampled. A response that began in an earlier rollout has tokens of an earlier
    policy, and each of these is weighted by its ratio.

    normalize_advantage: over all tokens of the update. The other arguments are PPO's.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        n_steps: int = 64,
        gamma: float = 1.0,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps=n_steps,
            batch_size=max(2, n_steps),  # what PPO accepts without a word; all of a rollout is one minibatch below
            n_epochs=1,
            clip_range=NO_CLIPPING,
            gamma=gamma,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            **_buffer(to_go_minus_value),
        )
        self.batch_size = None  # type: ignore[assignment]


class RLOO(_WholeResponses, PPO):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740).

    group_size: responses to each prompt, as the environment serves them. compare: "episode", whole episodes by their
    returns, or "turn", each turn of several by the return from there on (see `compared_by_turn`).
    normalize_advantage: over a minibatch, which RLOO does not do. The other arguments are PPO's: with one epoch its
    clipped loss is REINFORCE's but for the steps between minibatches.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        group_size: int = 4,
        compare: str = "episode",
        normalize_advantage: bool = False,
        **arguments: Any,
    ):
        self.group_size = _check_group(group_size)
        buffer = _group_buffer(compare, leave_one_out, group_size)
        arguments = {**arguments, "normalize_advantage": normalize_advantage, **buffer}
        super().__init__(policy, env, **arguments)


class GRPO(_WholeResponses, PPO):
    """Group relative policy optimisation (Shao et al. 2024, https://arxiv.org/abs/2402.03300).

    group_size: responses to each prompt, as the environment serves them. scale: whether advantages are divided by their
    group's standard deviation; normalize_advantage: by a minibatch's as well, which GRPO does not do. compare: as
    RLOO's. Every token weighs alike, whatever its response's length. The other arguments are PPO's.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        group_size: int = 8,
        scale: bool = True,
        compare: str = "episode",
        normalize_advantage: bool = False,
        **arguments: Any,
    ):
        self.group_size = _check_group(group_size)
        buffer = _group_buffer(compare, functools.partial(group_relative, scale=scale), group_size)
        arguments = {**arguments, "normalize_advantage": normalize_advantage, **buffer}
        super().__init__(policy, env, **arguments)
