"""Charges on how a response ends and how long it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from textrl_env import TextGenEnv
from textrl_env.errors import ConfigError, PromptError
from textrl_env.rewards import make_reward, score_episodes
from textrl_env.rewards.built_in.missing_eos import MissingEosReward
from textrl_env.rewards.built_in.overlong import OverlongReward
from textrl_env.tasks.conformance import check_task
from textrl_env.tasks.enumeration import ExactValue, enumerate_responses
from textrl_env.tasks.registry import get_task

EOS = 5  # of task "exact"


def test_missing_eos_by_the_reason_or_by_the_last_token() -> None:
    reasons = ["eos", "length", "stop"]
    ids = [[3, EOS], [EOS, 3], []]
    by_reason = MissingEosReward(2.0)
    assert by_reason(["p"] * 3, ["c"] * 3, finish_reason=reasons, completion_ids=ids) == [0.0, -2.0, 0.0]
    by_token = MissingEosReward(2.0, eos_ids=[EOS])  # as in a trainer of TRL
    assert by_token(prompts=["p"] * 3, completions=["c"] * 3, completion_ids=ids) == [0.0, -2.0, -2.0]
    with pytest.raises(ConfigError, match="must know how responses ended"):
        by_reason(["p"], ["c"], completion_ids=[[EOS]])
    for penalty in (-1.0, float("nan"), "1"):
        with pytest.raises(ConfigError, match="penalty must be"):
            MissingEosReward(penalty)  # type: ignore[arg-type]


@pytest.mark.parametrize(("last", "score"), [(EOS, 0.0), (1, -3.0)])
def test_the_environment_says_how_an_episode_ended(last: int, score: float) -> None:
    env = TextGenEnv(task="exact", kl_mode="cross_entropy", kl_coef=0.0, reward=MissingEosReward(3.0))
    env.reset(seed=0)
    for _ in range(4):
        assert not env.step(1)[2]
    _, reward, terminated, _, info = env.step(last)
    assert terminated
    assert info["score"] == score == reward


def test_overlong_by_hand() -> None:
    """DAPO, equation 13, with a limit of 10 and a margin of 4."""
    lengths = [0, 6, 7, 9, 10, 12]
    reward = OverlongReward(10, 4)
    assert reward(["p"] * 6, ["c"] * 6, [[1] * n for n in lengths]) == [0, 0, -0.25, -0.75, -1, -1]
    with pytest.raises(ConfigError, match="margin must not exceed the limit of 3"):
        OverlongReward(3, 4)
    with pytest.raises(ConfigError, match="requires the column 'completion_ids'"):
        score_episodes(reward, ["p"], ["c"])


@pytest.mark.filterwarnings("ignore:task 'exact' has no")
@pytest.mark.parametrize("name", ["missing_eos", "overlong", "length", "repetition"])
def test_they_are_rewards_with_a_name_in_any_task(name: str) -> None:
    reward: Any = make_reward(name)
    assert type(reward).__name__ in repr(reward)
    check_task(dataclasses.replace(get_task("exact"), reward=reward))


def test_a_column_cannot_be_named_like_the_reason() -> None:
    with pytest.raises(PromptError, match="'finish_reason', a name that rewards get for something else"):
        TextGenEnv(task="exact", prompts=[{"prompt": "a", "finish_reason": "eos"}])


def test_enumerated_responses_have_a_reason_too() -> None:
    """`exact`'s known optimum is of the same score that the environment pays."""
    env = TextGenEnv(task="exact", kl_mode="deferred", reward="missing_eos")
    value = ExactValue(env.rules, env.prompts)
    responses = list(enumerate_responses(6, np.array([EOS]), 5))
    ended = np.array([response[-1] == EOS for response in responses])
    np.testing.assert_array_equal(value.scores[0], np.where(ended, 0.0, -1.0))
