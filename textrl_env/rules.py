"""The rules of an episode: what every row of an environment has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from textrl_env.arguments import SCORE_MODES
from textrl_env.errors import ConfigError
from textrl_env.kl import KL_MODES, KLPenalty, estimate_kl
from textrl_env.models.sampling import SamplingParams
from textrl_env.models.vocabulary import Vocabulary
from textrl_env.rewards.protocol import reward_name, state_of
from textrl_env.text.stopping import StopStrings
from textrl_env.turns.rules import TurnRules
from textrl_env.user_values import check_names, check_whole


@dataclass(frozen=True, eq=False)
class EpisodeRules:
    """What an episode is: its vocabulary, limits, reward and KL charge, and when the score is asked for."""

    tokenizer: Any
    vocabulary: Vocabulary
    reward: Any
    kl_penalty: KLPenalty
    kl_mode: str
    sampling: SamplingParams  # how the policy draws tokens
    max_prompt_tokens: int
    max_new_tokens: int
    stop: StopStrings
    gold: Any = None
    score_mode: str = "stepwise"
    reward_workers: int = 0
    reward_batch: int | None = None
    turns: TurnRules | None = None  # None where an episode is one response

    def __post_init__(self) -> None:
        check_names("kl_mode", [self.kl_mode], KL_MODES)
        check_score_arguments(self.score_mode, self.reward_workers, self.reward_batch)
        check_workers(self.reward, self.reward_workers)
        for name in ("max_prompt_tokens", "max_new_tokens"):
            check_whole(name, getattr(self, name), 1)
        if self.kl_mode != "deferred":
            estimate_kl(self.kl_penalty.estimator, torch.zeros(1))

    @property
    def max_length(self) -> int:
        """Tokens of the longest observation."""
        return self.max_prompt_tokens + self.max_new_tokens

    def finish_reasons(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Why whole responses ended, told by their last ids: "eos" or "length". Stop strings are not looked for."""
        eos = set(self.vocabulary.eos_ids.tolist())
        return ["eos" if len(ids) and ids[-1] in eos else "length" for ids in responses]


def check_score_arguments(score_mode: Any, workers: Any, batch: Any) -> None:
    """Raise UnknownName or ConfigError where an environment's arguments about scores cannot work."""
    check_names("score_mode", [score_mode], SCORE_MODES)
    check_whole("reward_workers", workers, 0)
    if batch is not None:
        check_whole("reward_batch", batch, 1)
    if score_mode != "deferred" and (workers or batch is not None):
        name = "reward_workers" if workers else "reward_batch"
        raise ConfigError(f"{name} needs score_mode='deferred': scores are asked for at each step otherwise")


def check_workers(reward: Any, workers: int) -> None:
    """Raise ConfigError where `reward` cannot be called from several threads: what it remembers needs an order."""
    if workers and state_of(reward):
        raise ConfigError(
            f"reward_workers={workers} calls {reward_name(reward)!r} from several threads, in no fixed order, and it "
            "remembers earlier calls (a running normalisation): its scores would differ from run to run. Leave "
            "reward_workers out, or give the normalisation a fixed mean and std"
        )
