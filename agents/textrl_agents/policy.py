"""What evaluation, generation and every algorithm outside the libraries ask of a policy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from textrl_env.kl import Distributions
from textrl_env.models import PackedEpisodes, SamplingParams, Vocabulary
from textrl_env.models.actor_critic import ActionEvaluation, Step
from textrl_env.models.decoding.ahead_decoder import Upcoming
from textrl_env.models.sampling import entropy_of, sample


class PolicyStates(Distributions, Protocol):
    """Distributions and values of M states."""

    @property
    def logits(self) -> torch.Tensor:
        """Logits of the distribution sampled, float32 [M, V]: after temperature and cuts; -inf for ids never drawn."""

    @property
    def values(self) -> torch.Tensor:
        """State values, float32 [M]."""


@dataclass(frozen=True)
class LogitStates:
    """The states of a policy that computes all its logits at once."""

    logits: torch.Tensor  # float32 [M, V]
    values: torch.Tensor  # float32 [M]; 0 where the policy judges no states

    def distributions(self, rows: int) -> Iterator[torch.Tensor]:
        """Log-probabilities of every id, float32 [m, V] for `rows` of the M at a time."""
        return (self.logits[start : start + rows].log_softmax(dim=-1) for start in range(0, len(self.logits), rows))


class Policy(Protocol):
    """Acts, judges states, and evaluates what was done. `CausalLMActorCritic` is one.

    A policy of your own subclasses this and gives `vocabulary`, `device` and `states`; `step` and `evaluate` follow
    from these, and may be replaced by faster ones. `examples/plain_reinforce.py` has one, and
    `textrl_agents.check.conformance.check_policy` tells whether its methods agree.

    vocabulary: the ids that it emits; those of the environment's model.
    sampling: the temperature and the cuts that are in its logits, so that an environment built for it has them too.
    greedy: whether it is decoded greedily where nothing else is asked for.
    """

    vocabulary: Vocabulary
    sampling: SamplingParams = SamplingParams()
    greedy: bool = False

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which it takes observations."""

    @abstractmethod
    def states(self, shown: torch.Tensor | PackedEpisodes) -> PolicyStates:
        """The states of observations int64 [M, L], right-padded with -1, or of the M transitions of whole sequences.

        Those of sequences carry gradients where these are enabled.
        """

    @torch.no_grad()
    def step(self, observations: torch.Tensor, *, deterministic: bool = False) -> Step:
        """Draw the next token of observations int64 [N, L], right-padded with -1, with torch's global generator.

        deterministic: take the likeliest one; its log-probability is then 0.
        """
        states = self.states(observations)
        drawn = sample(states.logits, SamplingParams(), deterministic=deterministic)
        return Step(drawn.tokens, drawn.log_probs, states.values)

    def evaluate(self, packed: PackedEpisodes) -> ActionEvaluation:
        """Values, log-probabilities and entropies of the M transitions of whole sequences, with gradients."""
        states = self.states(packed)
        log_probs = states.logits.log_softmax(dim=-1)
        chosen = log_probs.gather(-1, packed.actions[:, None]).squeeze(-1)
        return ActionEvaluation(states.values, chosen, entropy_of(log_probs))

    def look_ahead(self, steps: int | None, upcoming: Upcoming | None) -> None:
        """Take note of how many steps come with these weights, and of the prompts that rows show when they end.

        None: not known. A policy that decodes whole responses at once can make use of it.
        """

    def clear_cache(self) -> None:
        """Forget what is cached of earlier observations."""
