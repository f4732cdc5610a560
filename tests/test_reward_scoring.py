"""How the environment calls a reward: what is passed, what is accepted back, what an error says."""

from __future__ import annotations

import math
import numbers
import subprocess
import sys
import threading
import traceback
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hang_guard import HANG

from textrl_env.errors import ConfigError, InvalidScore, RewardRaised, RewardTimeout, WrongScoreCount
from textrl_env.foreign_text import visible
from textrl_env.rewards import (
    CompositeReward,
    FunctionReward,
    Scores,
    TokenFunctionReward,
    completion_text,
    score_episodes,
    score_newest_tokens,
)

PROMPTS = ["the soup", "the room", "the book"]
COMPLETIONS = [" was good", " was bad", ""]
CHAT = [{"role": "user", "content": "hello"}]


class NoText:
    """What a careless class can do to an error message."""

    def __repr__(self) -> str:
        raise ValueError("no repr")

    __str__ = __repr__


class NoNumber(NoText, numbers.Real):
    def __float__(self) -> float:
        raise ValueError("no float")


NoNumber.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


class NoList(NoText, list):
    def __iter__(self) -> Any:
        raise OSError("gone")


class NoMessageError(NoText, Exception):
    pass


def returns(value: Any) -> Any:
    def fixed(prompts: list, completions: list, **columns: Any) -> Any:
        return value

    return fixed


def scores_of(value: Any) -> list[float]:
    return score_episodes(returns(value), PROMPTS, COMPLETIONS).scores.tolist()


@pytest.mark.parametrize(
    "value",
    [
        [1, 0.5, -2],
        (1.0, 0.5, -2.0),
        np.array([1, 0.5, -2], dtype=np.float16),
        torch.tensor([1, 0.5, -2], dtype=torch.bfloat16),
        torch.tensor([1, 0.5, -2], requires_grad=True),
        [torch.tensor(1.0), np.float32(0.5), np.array(-2)],
        [True, Fraction(1, 2), np.int64(-2)],
        [np.True_, 0.5, torch.tensor(-2)],
    ],
)
def test_any_kind_of_real_number_is_a_score(value: Any) -> None:
    assert scores_of(value) == [1.0, 0.5, -2.0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (None, "None"),
        ("0.5", "'0.5'"),
        (1 + 2j, r"\(1\+2j\)"),
        ([0.5], r"\[0.5\]"),
        (np.float32("nan"), "nan"),
        (torch.tensor(math.inf), r"tensor\(inf\)"),
        (torch.tensor([0.5]), r"tensor\(\[0.5000\]\)"),
        (10**400, "a number of 1329 bits"),
        pytest.param(10**5000, "a number of 16610 bits", id="5001 digits"),
        (torch.empty((), device="meta"), "tensor"),
        (np.ma.masked, "masked"),
        (Decimal("0.5"), "Decimal"),
        (NoText(), "<NoText that has no text form>"),
        (NoNumber(), "<NoNumber that has no text form>"),
    ],
)
def test_a_score_that_is_no_finite_number_names_function_and_sample(value: Any, shown: str) -> None:
    """CHECKS 19."""
    message = rf"reward 'fixed' returned .*{shown}.* for sample 1 of 3 \(prompt 'the room', completion ' was bad'\)"
    with pytest.raises(InvalidScore, match=message):
        scores_of([0.0, value, 1.0])


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([0.0, 1.0], "2 scores"),
        ([0.0] * 4, "4 scores"),
        ([], "0 scores"),
        (None, "None"),
        (0.5, "0.5"),
        ("abc", "'abc'"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, r"\{0: 1.0"),
        (np.zeros((3, 1)), r"an array of shape \(3, 1\)"),
        (torch.zeros(2), r"an array of shape \(2,\)"),
        (torch.tensor(0.5), r"an array of shape \(\)"),
        (torch.empty(3, device="meta"), r"tensor\(.*which cannot be read \(\w+: "),
        (torch.tensor([1.0, 0.0, 2.0]).to_sparse(), "tensor.*which cannot be read"),
        ((score for score in (0.0, 0.0, 0.0)), "<generator"),
        ({0.0, 1.0, 2.0}, r"\{0.0"),
        (b"abc", "b'abc'"),
        (NoText(), "<NoText that has no text form>"),
        (NoList(), r"<NoList that has no text form>, which cannot be read \(OSError: gone\)"),
    ],
)
def test_wrong_number_of_scores(value: Any, got: str) -> None:
    """CHECKS 19."""
    with pytest.raises(
        WrongScoreCount, match=rf"(?s)reward 'fixed' returned {got}.* for 3 samples; expected a list of 3"
    ):
        scores_of(value)


@pytest.mark.parametrize("parts", [None, [1.0], "style"])
def test_parts_that_are_no_mapping(parts: Any) -> None:
    with pytest.raises(InvalidScore, match=r"gave the parts .*; expected a dict of names to scores"):
        scores_of(Scores(np.zeros(3), parts))


@pytest.mark.parametrize("array", [np.array([0.0, math.nan, 1.0]), torch.tensor([0.0, math.nan, 1.0])])
def test_nan_in_an_array_is_found(array: Any) -> None:
    """CHECKS 19."""
    with pytest.raises(InvalidScore, match="returned nan for sample 1 of 3"):
        scores_of(array)


def test_nan_in_a_part_is_found() -> None:
    """CHECKS 19: parts are logged, and a NaN there ends up in a plot's average."""

    class Detailed:
        def __call__(self, prompts: list, completions: list, **columns: Any) -> list[float]:
            return [0.0] * len(prompts)

        def detailed(self, prompts: list, completions: list, **columns: Any) -> Scores:
            return Scores(np.zeros(3), {"style": np.array([0.0, 0.0, math.nan])})

    with pytest.raises(InvalidScore, match="reward 'Detailed/style' returned nan for sample 2"):
        score_episodes(Detailed(), PROMPTS, COMPLETIONS)


def test_an_exception_without_a_message() -> None:
    """CHECKS 18: the `__str__` of the user's own exception fails too."""

    def fails(prompts: list, completions: list) -> list[float]:
        raise NoMessageError

    with pytest.raises(RewardRaised, match=r"raised NoMessageError on sample 0 .*: \(its message cannot be shown\)$"):
        score_episodes(fails, PROMPTS, COMPLETIONS)


def test_escape_sequences_in_an_exception_are_shown_as_text() -> None:
    """CHECKS 57: also those of the response, which the exception repeats."""

    def fails(prompts: list, completions: list) -> list[float]:
        raise ValueError(f"cannot judge {completions[0]}\x9b1m\u202e")

    with pytest.raises(RewardRaised) as caught:
        score_episodes(fails, ["\x1b[2J"], ["\x1b]0;owned\x07"])
    assert visible(str(caught.value)) == str(caught.value)
    assert r"cannot judge \x1b]0;owned\x07\x9b1m\u202e" in str(caught.value)


def test_an_exception_keeps_its_traceback_and_names_the_sample() -> None:
    """CHECKS 18."""

    def divide(prompts: list, completions: list) -> list[float]:
        return [1 / len(text) for text in completions]

    for reward in (divide, FunctionReward(divide), FunctionReward(divide, timeout=None)):
        where = r"sample 2 of 3 \(prompt 'the book', completion ''\)"
        message = f"reward 'divide' raised ZeroDivisionError on {where}: div"
        with pytest.raises(RewardRaised, match=message) as caught:
            score_episodes(reward, PROMPTS, COMPLETIONS)
        cause = caught.value.__cause__
        assert isinstance(cause, ZeroDivisionError)
        assert "return [1 / len(text)" in "".join(traceback.format_tb(cause.__traceback__))
        assert score_episodes(reward, PROMPTS[:1], ["abcd"]).scores.tolist() == [0.25]  # still usable


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_sys_exit_is_an_error_of_the_reward(timeout: float | None) -> None:
    """CHECKS 54: it must not end the program as if all were done. Ctrl-C must."""

    def leaves(prompts: list, completions: list) -> list[float]:
        if "" in completions:
            raise SystemExit(0)
        return [0.0] * len(prompts)

    reward = FunctionReward(leaves, timeout=timeout)
    with pytest.raises(RewardRaised, match=r"reward 'leaves' raised SystemExit on sample 2 of 3 .*: 0") as caught:
        score_episodes(reward, PROMPTS, COMPLETIONS)
    assert isinstance(caught.value.__cause__, SystemExit)

    def interrupted(prompts: list, completions: list) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_episodes(FunctionReward(interrupted, timeout=timeout), PROMPTS, COMPLETIONS)


def test_an_exception_of_the_whole_batch() -> None:
    """CHECKS 18, where no sample fails alone."""

    def small(prompts: list, completions: list) -> list[float]:
        if len(prompts) > 2:
            raise MemoryError("too many")
        return [0.0] * len(prompts)

    with pytest.raises(RewardRaised, match=r"raised MemoryError on a batch of 3 samples \(none of them fails alone\)"):
        score_episodes(small, PROMPTS, COMPLETIONS)


def test_finding_the_sample_costs_nothing_while_all_is_well() -> None:
    calls = []

    def counted(prompts: list, completions: list) -> list[float]:
        calls.append(len(prompts))
        return [0.0] * len(prompts)

    score_episodes(counted, PROMPTS, COMPLETIONS)
    assert calls == [3]


def test_errors_inside_a_composite_name_the_part_and_its_sample() -> None:
    """CHECKS 18 and 19: wrapped once, not once per level."""

    def fails(prompts: list, completions: list) -> list[float]:
        raise KeyError("x")

    with pytest.raises(RewardRaised, match=r"^reward 'fails' raised KeyError on sample 0 of 3"):
        score_episodes(CompositeReward([returns([0.0] * 3), fails]), PROMPTS, COMPLETIONS)
    with pytest.raises(InvalidScore, match=r"^reward 'fixed' returned nan for sample 0 of 3"):
        score_episodes(CompositeReward([returns([math.nan] * 3)]), PROMPTS, COMPLETIONS)


def test_a_timeout_comes_through_without_trying_each_sample() -> None:
    """CHECKS 20: three samples of a function that hangs must cost one limit, not four."""
    release, calls = threading.Event(), []

    def slow(prompts: list, completions: list) -> list[float]:
        calls.append(len(prompts))
        release.wait(HANG)
        return [0.0] * len(prompts)

    with pytest.raises(RewardTimeout, match=r"'slow' did not answer within 0.1 s for 3 samples"):
        score_episodes(FunctionReward(slow, timeout=0.1), PROMPTS, COMPLETIONS)
    assert calls in ([3], [])  # [] where the machine is too busy to have begun it
    release.set()


def test_a_reward_that_changes_its_arguments_changes_nothing() -> None:
    """CHECKS 22: down to the last nested list."""

    def vandal(prompts: list, completions: list, completion_ids: list, notes: list) -> list[float]:
        prompts[0][0]["content"] = "ruined"
        completions[0][0]["content"] = "ruined"
        completion_ids[0].append(99)
        notes[0]["deep"]["list"].clear()
        for argument in (prompts, completions, completion_ids, notes):
            argument.append("extra")
        return [0.0]

    prompts, ids, notes = [[{"role": "user", "content": "hello"}]], [[1, 2]], [{"deep": {"list": [1]}}]
    completions = [[{"role": "assistant", "content": "good"}]]
    score_episodes(vandal, prompts, completions, ids, {"notes": notes})
    assert prompts == [[{"role": "user", "content": "hello"}]]
    assert completions == [[{"role": "assistant", "content": "good"}]]
    assert ids == [[1, 2]]
    assert notes == [{"deep": {"list": [1]}}]


def test_a_token_reward_that_changes_its_arguments_changes_nothing() -> None:
    """CHECKS 22."""

    def vandal(prompts: list, completion_ids: list) -> list[float]:
        completion_ids[0].clear()
        prompts.clear()
        return [1.0]

    ids = [[1, 2]]
    score_newest_tokens(TokenFunctionReward(vandal), ["x"], ids)
    assert ids == [[1, 2]]


def test_parts_of_a_composite_cannot_change_each_others_arguments() -> None:
    """CHECKS 22."""

    def vandal(prompts: list, completions: list, tags: list) -> list[float]:
        tags[0].clear()
        return [0.0]

    def reader(prompts: list, completions: list, tags: list) -> list[float]:
        return [float(len(tag)) for tag in tags]

    scored = score_episodes(CompositeReward([vandal, reader]), ["x"], ["y"], None, {"tags": [[1, 2]]})
    assert scored.parts["reader"].tolist() == [2.0]


def test_only_the_columns_that_the_reward_takes_are_passed() -> None:
    def strict(prompts: list, completions: list, answer: list) -> list[float]:
        return [float(a) for a in answer]

    def greedy(prompts: list, completions: list, **columns: Any) -> list[float]:
        assert sorted(columns) == ["answer", "completion_ids", "tag"]
        return [float(len(ids)) for ids in columns["completion_ids"]]

    columns = {"answer": [1, 2, 3], "tag": list("abc")}
    ids = [[5], [5, 6], []]
    for reward in (strict, FunctionReward(strict)):
        assert score_episodes(reward, PROMPTS, COMPLETIONS, ids, columns).scores.tolist() == [1, 2, 3]
    for reward in (greedy, FunctionReward(greedy)):
        assert score_episodes(reward, PROMPTS, COMPLETIONS, ids, columns).scores.tolist() == [1, 2, 0]


def test_a_missing_column_is_named() -> None:
    def needy(prompts: list, completions: list, answer: list) -> list[float]:
        return [0.0] * len(prompts)

    for reward in (needy, FunctionReward(needy)):
        with pytest.raises(ConfigError, match=r"'needy' requires the column 'answer'.*\(columns: tag\)"):
            score_episodes(reward, PROMPTS, COMPLETIONS, None, {"tag": list("abc")})


def test_chats_arrive_as_in_trl() -> None:
    """Completions of chat prompts are lists with one assistant message; the caller may pass their text."""

    def look(prompts: list, completions: list) -> list[float]:
        assert prompts == [CHAT, "text"]
        assert completions == [[{"role": "assistant", "content": "hi"}], "hi"]
        return [float(len(completion_text(completion))) for completion in completions]

    assert score_episodes(look, [CHAT, "text"], ["hi", "hi"]).scores.tolist() == [2, 2]
    assert score_episodes(look, [CHAT, "text"], [[{"role": "assistant", "content": "hi"}], "hi"]).scores.shape == (2,)


def test_nothing_to_score_calls_nothing() -> None:
    assert score_episodes(returns("never looked at"), [], []).scores.shape == (0,)


def test_newest_tokens() -> None:
    def last_id(prompts: list, completion_ids: list, bonus: list) -> list[float]:
        return [ids[-1] + extra for ids, extra in zip(completion_ids, bonus, strict=True)]

    reward = TokenFunctionReward(last_id)
    scores = score_newest_tokens(reward, ["a", "b"], [[1, 2], [3]], {"bonus": [10, 20], "other": [0, 0]})
    assert scores is not None
    assert scores.dtype == np.float64
    assert scores.tolist() == [12, 23]
    assert score_episodes(reward, ["a", "b"], ["", ""], [[1, 2], [3]]).scores.tolist() == [0, 0]
    assert score_newest_tokens(returns([0.0]), ["a"], [[1]]) is None


def test_bad_token_scores_are_refused() -> None:
    """CHECKS 18 and 19 at every step, not only at the end."""

    def bad(prompts: list, completion_ids: list) -> list[float]:
        return [math.nan if ids[-1] == 3 else 1 / ids[-1] for ids in completion_ids]

    reward = TokenFunctionReward(bad)
    with pytest.raises(InvalidScore, match=r"'bad.score_tokens' returned nan for sample 1 of 2 \(prompt 'b'\)"):
        score_newest_tokens(reward, ["a", "b"], [[1], [3]])
    with pytest.raises(RewardRaised, match=r"'bad.score_tokens' raised ZeroDivisionError on sample 1 of 2"):
        score_newest_tokens(reward, ["a", "b"], [[1], [0]])


def test_importing_rewards_and_prompts_imports_neither_torch_nor_transformers() -> None:
    """`import textrl_env` is to take under 0.3 s."""
    code = (
        "import sys, textrl_env.rewards, textrl_env.text.prompts\n"
        "textrl_env.rewards.make_reward([('length', 1.0), lambda prompts, completions: [0.0]])\n"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
