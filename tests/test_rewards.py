"""Composites, `make_reward`, the registry, the small built-in rewards, and `check_reward`."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textrl_env.errors import ConfigError, InvalidScore, RewardError, RewardRaised, TextRLError, UnknownName
from textrl_env.rewards import (
    CompositeReward,
    FunctionReward,
    LengthReward,
    RepetitionReward,
    TokenFunctionReward,
    check_reward,
    make_reward,
    register_reward,
    registered_rewards,
    score_episodes,
    score_newest_tokens,
)

PROMPTS, COMPLETIONS = ["a", "b"], ["one two", "one"]


def words(prompts: list, completions: list) -> list[float]:
    return [float(len(text.split())) for text in completions]


def letters(prompts: list, completions: list, **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def last_id(prompts: list, completion_ids: list) -> list[float]:
    return [float(ids[-1]) for ids in completion_ids]


def totals(reward: Any) -> list[float]:
    return score_episodes(reward, PROMPTS, COMPLETIONS).scores.tolist()


def test_composite_is_the_weighted_sum_with_its_parts() -> None:
    reward = CompositeReward({"w": words, "l": (letters, -0.5)})
    scored = score_episodes(reward, PROMPTS, COMPLETIONS)
    assert scored.scores.tolist() == [2 - 3.5, 1 - 1.5]
    assert {name: part.tolist() for name, part in scored.parts.items()} == {"w": [2, 1], "l": [7, 3]}
    assert reward(prompts=PROMPTS, completions=COMPLETIONS) == [-1.5, -0.5]
    assert repr(reward) == "CompositeReward(1 * w + -0.5 * l)"


def test_composite_names_are_unique() -> None:
    """Two parts of one name would overwrite each other in the log."""

    def words_2(prompts: list, completions: list) -> list[float]:
        return [0.0] * len(prompts)

    reward = CompositeReward([words, (words, 2.0), words_2])
    assert list(reward.weights.items()) == [("words", 1.0), ("words_2", 2.0), ("words_2_2", 1.0)]
    assert totals(reward) == [6.0, 3.0]


def test_composites_nest() -> None:
    inner = CompositeReward({"w": (words, 10.0), "l": letters})
    scored = score_episodes(CompositeReward({"inner": (inner, 2.0), "w": words}), PROMPTS, COMPLETIONS)
    assert scored.scores.tolist() == [2 * 27 + 2, 2 * 13 + 1]
    assert scored.parts["inner"].tolist() == [27, 13]
    assert scored.parts["inner/w"].tolist() == [2, 1]


def test_composite_scores_tokens_where_a_part_does() -> None:
    reward = CompositeReward([words, (TokenFunctionReward(last_id), 0.5), TokenFunctionReward(last_id)])
    scores = score_newest_tokens(reward, PROMPTS, [[1, 2], [4]])
    assert scores is not None
    assert scores.tolist() == [3.0, 6.0]
    assert totals(reward) == [2.0, 1.0]
    without = CompositeReward([words])
    assert without.score_tokens is None  # the environment need not ask at every step
    assert score_newest_tokens(without, PROMPTS, [[1], [2]]) is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "at least one part"),
        ({}, "at least one part"),
        (words, "must be a list or a dict of rewards, got function"),
        (["length"], "must be a reward or.*got 'length'; make_reward"),
        ([(words, "2")], "weight of reward 'words' must be a finite number, got '2'"),
        ([(words, math.nan)], "must be a finite number, got nan"),
        ([(words, True)], "must be a finite number, got True"),
    ],
)
def test_bad_composites(parts: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompositeReward(parts)


def test_make_reward_from_names() -> None:
    assert {"embedded", "length", "repetition"} <= set(registered_rewards())
    assert make_reward("length", target=2).target == 2  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match=r"unknown reward 'repitition'. Did you mean 'repetition'"):
        make_reward("repitition")
    with pytest.raises(ConfigError, match=r"'length' does not take the arguments \['goal'\]"):
        make_reward("length", goal=3)


def test_registered_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from textrl_env.rewards import registry

    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    register_reward("mine", lambda scale=1.0: FunctionReward(lambda prompts, completions: [scale] * 2))
    assert totals(make_reward("mine", scale=3.0)) == [3.0, 3.0]
    with pytest.raises(ConfigError, match="must be a text without"):
        register_reward("my/reward", words)
    with pytest.raises(ConfigError, match="factory of reward 'x' must be callable, got int"):
        register_reward("x", 3)  # type: ignore[arg-type]


def test_make_reward_from_callables_and_rewards() -> None:
    made = make_reward(words, timeout=3.0)
    assert isinstance(made, FunctionReward)
    assert made.timeout == 3.0
    for reward in (made, CompositeReward([words]), TokenFunctionReward(last_id)):
        assert make_reward(reward) is reward
    with pytest.raises(ConfigError, match=r"is a reward already.*\['timeout'\]"):
        make_reward(made, timeout=1.0)
    with pytest.raises(ConfigError, match=r"signature \(samples\).*takes no keyword 'prompts'"):
        make_reward(lambda samples: [])
    with pytest.raises(ConfigError, match=r"got the class 'CompositeReward'"):
        make_reward(CompositeReward)
    with pytest.raises(ConfigError, match="a reward must be callable, got int 3"):
        make_reward(3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ([words, letters], [2 + 7, 1 + 3]),
        ([(words, 2.0), letters], [4 + 7, 2 + 3]),
        ([[words, 2.0], [letters, 0]], [4, 2]),  # as YAML gives it
        ((words, 2), [4, 2]),
        ({"reward": words, "weight": 3}, [6, 3]),
        ([{"reward": words, "weight": 3}, {"reward": letters}], [6 + 7, 3 + 3]),
        ({"a": words, "b": (letters, -1), "c": {"reward": words, "weight": 10}}, [2 - 7 + 20, 1 - 3 + 10]),
        ([[words, letters], (words, 10)], [9 + 20, 4 + 10]),  # a list in a list is a composite
        ([{"reward": "length", "weight": 0.0}, words], [2, 1]),
    ],
)
def test_make_reward_from_lists_and_dicts(spec: Any, expected: list[float]) -> None:
    reward = make_reward(spec)
    assert isinstance(reward, CompositeReward)
    assert totals(reward) == expected


def test_bad_lists() -> None:
    with pytest.raises(UnknownName, match=r"unknown key of a reward's entry 'wieght'. Did you mean 'weight'"):
        make_reward([{"reward": words, "wieght": 3}])
    with pytest.raises(ConfigError, match=r"takes the arguments combine and coefficient, or .*; got \['timeout'\]"):
        make_reward([words], timeout=3)
    with pytest.raises(UnknownName, match=r"unknown reward 'lenght'. Did you mean 'length'"):
        make_reward([("lenght", 2.0)])


def test_make_reward_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Scale:\n    by: float = 2.0\n"
        "def twice(prompts, completions):\n    return [Scale().by * len(text) for text in completions]\n"
    )
    reward = make_reward(f"{path}:twice", timeout=5.0)
    assert reward.__name__ == "twice"  # type: ignore[attr-defined]
    assert totals(reward) == [14, 6]
    with pytest.raises(UnknownName, match=r"unknown function in '.*mine.py' 'twcie'. Did you mean 'twice'"):
        make_reward(f"{path}:twcie")
    with pytest.raises(ConfigError, match=r"mine.py' names no function; write '.*mine.py:function'"):
        make_reward(str(path))
    with pytest.raises(ConfigError, match=r"there is no file '.*absent.py'"):
        make_reward(f"{tmp_path / 'absent.py'}:twice")
    path.write_text("raise OSError('no data')")
    with pytest.raises(ConfigError, match=r"mine.py' failed with OSError: no data"):
        make_reward(f"{path}:twice")


@pytest.mark.parametrize("spec", ["x" * 5000, "x" * 5000 + ".py:f", "/" + "x" * 5000, "nul\0l", "~nobody-at-all/x"])
def test_names_that_no_file_can_have(spec: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a path") as caught:
        make_reward(spec)
    assert len(str(caught.value)) < 300


def test_every_refusal_is_typed() -> None:
    for spec in (None, 3, "", "no such thing", b"x", [3], {"a": None}, object()):
        with pytest.raises(TextRLError):
            make_reward(spec)


@pytest.mark.parametrize(
    ("text", "score"), [("a b c d", 0.0), ("a b c", -0.25), ("", -1.0), ("a " * 12, -2.0), (" a\nb\tc  d ", 0.0)]
)
def test_length_by_hand(text: str, score: float) -> None:
    assert LengthReward(target=4)(["p"], [text]) == [score]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("one two three four", 0.0),
        ("a b a b a", -1 / 2),  # bigrams ab ba ab ba: 2 of 4 are repeats
        ("A a a A a", -3 / 4),  # aa four times
    ],
)
def test_repetition_by_hand(text: str, score: float) -> None:
    assert RepetitionReward(n=2)(["p"], [text]) == [score]


@pytest.mark.parametrize("value", [0, -1, "3", None, True, math.nan])
def test_bad_targets(value: Any) -> None:
    with pytest.raises(ConfigError, match="target must be a whole number >= 1"):
        LengthReward(target=value)
    with pytest.raises(ConfigError, match="n must be a whole number >= 1"):
        RepetitionReward(n=value)


@pytest.mark.parametrize("name", ["length", "repetition"])
def test_the_check_passes_built_in_rewards(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(check_reward(make_reward(name)).scores) == 4


def test_the_check_passes_columns_and_chats() -> None:
    def tagged(prompts: list, completions: list, tag: list) -> list[float]:
        return [float(t) + len(c[0]["content"]) for t, c in zip(tag, completions, strict=True)]

    chat = [{"role": "user", "content": "hello"}]
    assert check_reward(tagged, [chat, chat], ["a", "bc"], {"tag": [1, 2]}).scores.tolist() == [2, 4]


def test_the_check_finds_what_is_wrong() -> None:
    counter = itertools.count()

    def ranks(prompts: list, completions: list) -> list[float]:
        order = np.argsort([len(text) for text in completions])
        return np.argsort(order).tolist()

    def vandal(prompts: list, completions: list) -> list[float]:
        completions.sort()
        return [0.0] * len(prompts)

    def per_word(prompts: list, completions: list) -> list[float]:
        return [1 / len(text.split()) for text in completions]

    def unsteady(prompts: list, completions: list) -> list[float]:
        return [float(next(counter)) for _ in prompts]

    with pytest.raises(InvalidScore, match=r"'ranks' gives sample \d the score .* among 4 samples but 0.0 alone"):
        check_reward(ranks)
    with pytest.raises(RewardError, match="'vandal' changes its argument 'completions'; work on a copy"):
        check_reward(vandal)
    with pytest.raises(RewardRaised, match="'per_word' raised ZeroDivisionError on sample 2 of 4"):
        check_reward(per_word)
    with pytest.warns(UserWarning, match=r"'unsteady' is not deterministic: 0.0 and then"):
        check_reward(unsteady)
    with pytest.raises(InvalidScore, match="2 scores for 4 samples"):
        check_reward(lambda prompts, completions: [0.0, 0.0])
