"""A check that users can run on their own reward before training with it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import InvalidScore, RewardError
from textrl_env.rewards.protocol import Scores, accepted_columns, reward_name
from textrl_env.rewards.scoring import as_completion, score_episodes

SAMPLE_PROMPTS = ("The soup at the old hotel was", "I read this book", "Say something", "The film")
SAMPLE_COMPLETIONS = (
    " warm and good.",
    " twice, and would again! \U0001f600",
    "",
    " \u975e\u5e38\u597d. " * 20,
)

TOLERANCE = 1e-4
"""Allowed difference between a score in a batch and alone: padding changes float32 sums a little."""


def check_reward(
    reward: Any,
    prompts: Sequence[Any] = SAMPLE_PROMPTS,
    completions: Sequence[Any] = SAMPLE_COMPLETIONS,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Scores:
    """Call a reward as the environment will, and say what would go wrong.

    prompts, completions: at least two of each; by default four texts, with an empty completion and a long one.
    columns: the prompts' other columns, a value for each prompt.

    Returns the scores, if all is well. Warns (`UserWarning`) where two calls give different scores. Raises InvalidScore
    where they are not finite numbers, one for each completion, or where a score depends on which others are in its
    batch; RewardRaised where the reward raised; RewardError where it changed its arguments; and ConfigError where it
    cannot be called with these.
    """
    name = reward_name(reward)
    columns = columns or {}
    scores = score_episodes(reward, prompts, completions, None, columns)
    _check_arguments_kept(reward, name, list(prompts), list(completions), columns)
    again = score_episodes(reward, prompts, completions, None, columns).scores
    if not np.allclose(scores.scores, again, rtol=TOLERANCE, atol=TOLERANCE):
        index = int(np.argmax(np.abs(scores.scores - again)))
        warnings.warn(
            f"reward {name!r} is not deterministic: {scores.scores[index]} and then {again[index]} for sample {index}",
            stacklevel=2,
        )
        return scores
    for index in range(len(prompts)):
        row = {key: values[index : index + 1] for key, values in columns.items()}
        alone = score_episodes(reward, [prompts[index]], [completions[index]], None, row).scores[0]
        if not np.isclose(alone, scores.scores[index], rtol=TOLERANCE, atol=TOLERANCE):
            raise InvalidScore(
                f"reward {name!r} gives sample {index} the score {scores.scores[index]} among "
                f"{len(prompts)} samples but {alone} alone; a score must not depend on which episodes happen "
                "to end together"
            )
    return scores


def _check_arguments_kept(
    reward: Any, name: str, prompts: list[Any], completions: list[Any], columns: Mapping[str, Sequence[Any]]
) -> None:
    answers = [as_completion(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
    given: dict[str, Any] = {"prompts": prompts, "completions": answers}
    given |= accepted_columns(reward, {key: list(values) for key, values in columns.items()}, given=given)
    handed = copy.deepcopy(given)
    reward(**handed)
    for key, value in given.items():
        if repr(handed[key]) != repr(value):  # by repr: == on arrays gives arrays
            raise RewardError(f"reward {name!r} changes its argument {key!r}; work on a copy")
