"""A rollout buffer of whole responses, for algorithms without bootstrapping: REINFORCE, RLOO and GRPO.

A rollout of SB3 ends after so many steps, in the middle of most responses. A critic's value stands in for what is cut
off; without one a response has to wait until it is whole, and in a group until the group is. It is then trained on
once, with the log-probabilities it was sampled with. What waits is never more than the rows and the groups being
filled, and no response is dropped, so short ones are not favoured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer
from textrl_env.errors import ConfigError

if TYPE_CHECKING:
    from textrl_agents.sb3.policy import CausalLMPolicy
    from textrl_agents.sb3.vec_env import TextVecEnv


@dataclass(eq=False)
class Response:
    """A response as it was sampled, perhaps over several rollouts."""

    ids: np.ndarray  # int64: the prompt and the tokens so far
    first_action: int  # the prompt's length
    rewards: np.ndarray  # float32 [T], with the KL charged
    values: np.ndarray  # float32 [T]
    log_probs: np.ndarray  # float32 [T]

    def extended(self, later: Response) -> Response:
        """With the tokens of the next rollout; `later.ids` holds all of them."""
        columns = [
            np.concatenate([getattr(self, name), getattr(later, name)]) for name in ("rewards", "values", "log_probs")
        ]
        return Response(later.ids, self.first_action, *columns)


class Estimate(NamedTuple):
    """What an algorithm learns from one response; both [T]."""

    advantages: np.ndarray
    returns: np.ndarray  # what the value head is fitted to, where it is


def check_whole_responses(env: TextVecEnv, group_size: int) -> None:
    """Raise ConfigError unless `env` serves prompts in groups of `group_size` and lets every response end."""
    if env.env.group_size != group_size:
        raise ConfigError(
            f"this algorithm compares {group_size} responses to each prompt and the environment serves "
            f"groups of {env.env.group_size}: build it with group_size={group_size}"
        )
    limit, longest = env.env.max_episode_steps, env.env.rules.max_new_tokens
    if limit is not None and limit < longest:
        raise ConfigError(
            f"this algorithm learns from whole responses and has no critic to stand in for what "
            f"max_episode_steps={limit} cuts off; leave it out, or lower max_new_tokens={longest} instead"
        )


Estimator = Callable[[Sequence[Sequence[Response]]], list[Estimate]]


class ResponseRolloutBuffer(EpisodeRolloutBuffer):
    """`EpisodeRolloutBuffer` whose minibatches hold whole responses of whole groups alone.

    estimator: from groups of `group_size` responses to an Estimate for each, in order.
    group_size: as the environment serves prompts.
    """

    def __init__(self, *arguments: Any, estimator: Estimator, group_size: int = 1, **keywords: Any):
        self.estimator, self.group_size = estimator, group_size
        self._steps_seen = 0  # of the environment, at the end of the last rollout
        self._incomplete: set[int] = set()  # rows whose response has lost tokens, and is dropped when it ends
        self._open: dict[int, Response] = {}  # row -> a response that goes on in the next rollout
        self._groups: dict[int, list[Response]] = {}  # group -> its responses so far
        super().__init__(*arguments, **keywords)

    @property
    def has_batch(self) -> bool:
        """Whether the last rollout completed any group."""
        return self._packed is not None and len(self._packed) > 0

    def state_dict(self) -> dict[str, Any]:
        """With the responses that wait for their end or for their group."""
        waiting = {str(group): [vars(response) for response in responses] for group, responses in self._groups.items()}
        return {
            **super().state_dict(),
            "open": {str(row): dict(vars(response)) for row, response in self._open.items()},
            "groups": waiting,
            "incomplete": sorted(self._incomplete),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._open = {int(row): Response(**response) for row, response in state["open"].items()}
        self._groups = {
            int(group): [Response(**response) for response in responses] for group, responses in state["groups"].items()
        }
        self._incomplete = set(state["incomplete"])
        assert self.ledger.env is not None  # bound
        self._steps_seen = self.ledger.env.steps

    def bind(self, env: TextVecEnv, policy: CausalLMPolicy) -> bool:
        check_whole_responses(env, self.group_size)
        goes_on = super().bind(env, policy)
        if not goes_on:  # the episodes in flight are gone
            self._open, self._groups, self._incomplete, self._steps_seen = {}, {}, set(), 0
        if env.steps != self._steps_seen + 1:  # a rollout was broken off, and took tokens with it
            self._incomplete = set(range(self.n_envs))
        return goes_on

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Charge the deferred KL, put responses together, and estimate the advantages of the groups that are whole."""
        stretches = self._settle(dones)
        assert self.ledger.env is not None  # or nothing could be settled
        self._steps_seen = self.ledger.env.steps
        sizes = [len(ids) - first for ids, first in zip(self._sequences, self._first_actions, strict=True)]
        columns = [
            np.split(column[self._place], np.cumsum(sizes)[:-1])
            for column in (self.rewards, self.values, self.log_probs)
        ]
        pieces = zip(self._sequences, self._first_actions.tolist(), *columns, strict=True)
        ended = iter(self.episodes)
        whole: list[list[Response]] = []
        for (row, is_over), piece in zip(stretches, pieces, strict=True):
            response = Response(*piece)
            episode = next(ended) if is_over else None
            begun = self._open.pop(row, None)
            if row in self._incomplete:
                if is_over:
                    self._incomplete.remove(row)
                continue
            if begun is not None:
                response = begun.extended(response)
            if episode is None:
                self._open[row] = response
                continue
            group = episode.group
            waiting = [] if group is None else self._groups.setdefault(group, [])
            waiting.append(response)
            if len(waiting) == self.group_size:
                whole.append(waiting)
                self._groups.pop(group, None)  # type: ignore[arg-type]
        self._take(whole)

    def _take(self, whole: list[list[Response]]) -> None:
        responses = [response for group in whole for response in group]
        if not responses:
            self._packed, self._columns = None, ()
            return
        estimates = self.estimator(whole)
        self._pack([response.ids for response in responses], [response.first_action for response in responses])
        parts = (
            [response.values for response in responses],
            [response.log_probs for response in responses],
            [estimate.advantages for estimate in estimates],
            [estimate.returns for estimate in estimates],
        )
        self._columns = tuple(np.concatenate(part).astype(np.float32) for part in parts)
        # What SB3 measures the explained variance on.
        self.values, self.log_probs, self.advantages, self.returns = self._columns
