"""`check_task`: what a user's own task is checked for."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from typing import Any

import pytest
from conftest import quick

from textrl_env import Task
from textrl_env.errors import (
    ConfigError,
    InvalidScore,
    MissingExtra,
    PromptError,
    RewardError,
    RewardRaised,
    UnknownName,
)
from textrl_env.tasks.conformance import check_task
from textrl_env.tasks.registry import BUILT_IN


@pytest.mark.parametrize(
    "name", quick(["sentiment", "json_answer", "guess"], sorted({*BUILT_IN} - {"exact", "exact_turns"}))
)
def test_built_in_tasks_conform(name: str):
    check_task(name)  # a warning is an error here


@pytest.mark.filterwarnings("ignore:task 'exact.*' has no validation prompts")
@pytest.mark.parametrize("name", ["exact", "exact_turns"])
def test_the_exact_tasks_hold_nothing_out_on_purpose(name: str):
    with pytest.warns(UserWarning, match=f"task '{name}' has no held-out prompts: evaluations take the training"):
        check_task(name)


@pytest.fixture
def good(tiny_task: Task) -> Task:
    return dataclasses.replace(tiny_task, validation_prompts=["one more"], heldout_prompts=["another"])


def test_a_good_task_of_a_user(good: Task):
    check_task(good)


def test_a_task_of_many_prompts_holds_some_out_by_itself(tiny_task: Task):
    check_task(dataclasses.replace(tiny_task, prompts=[f"room {n}" for n in range(20)], heldout_prompts=None))


def test_it_has_no_opinion_on_how_prompts_are_given(tiny_task: Task):
    def wanted(prompts: list, completions: list, answer: list[int], completion_ids: list) -> list[float]:
        return [float(len(ids) == number) for ids, number in zip(completion_ids, answer, strict=True)]

    def rows() -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": "hello"}], "answer": 3}]

    chat = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
    _, tokenizer = tiny_task.model()
    task = dataclasses.replace(tiny_task, prompts=rows, heldout_prompts=None, reward=wanted, gold=wanted)
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = chat
        with pytest.warns(UserWarning, match="task 'tiny' has no (validation|held-out) prompts") as warned:
            check_task(task)
        assert len(warned) == 2
    finally:
        tokenizer.chat_template = before


def no_number(prompts: list, completions: list) -> list[float]:
    return [1 / len(text) if text else float("nan") for text in completions]


def raises_on_empty(prompts: list, completions: list) -> list[float]:
    return [float(text.split()[0] == "good") for text in completions]


def among_others(prompts: list, completions: list) -> list[float]:
    return [len(text) / max(map(len, completions)) if len(completions) > 1 else 0.0 for text in completions]


def changes(prompts: list, completions: list) -> list[float]:
    prompts.clear()
    return [0.0] * len(completions)


def wants_answer(prompts: list, completions: list, answer: list[str]) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        (
            {"reward": no_number},
            InvalidScore,
            r"reward of task 'tiny', on training prompts: .* returned nan",
        ),
        (
            {"reward": raises_on_empty},
            RewardRaised,
            r"reward of task 'tiny'.*IndexError on sample 0 .*completion ''",
        ),
        ({"gold": raises_on_empty}, RewardRaised, "the gold score of task 'tiny'"),
        ({"reward": among_others}, InvalidScore, "must not depend on which episodes happen to end together"),
        ({"reward": changes}, RewardError, "changes its argument 'prompts'"),
        ({"reward": wants_answer}, ConfigError, "'wants_answer' .*answer"),
        ({"reward": "lenght"}, UnknownName, "Did you mean 'length'"),
        ({"prompts": []}, PromptError, "empty"),
        ({"prompts": [5]}, PromptError, "prompt 0 must be a text or a list of chat messages"),
        ({"heldout_prompts": [{"prompt": "x", "answer": 1}]}, PromptError, r"training prompts have the columns \[\]"),
        ({"max_prompt_tokens": 500}, ConfigError, "exceeds the 128 positions"),
        ({"prompt_overflow": "error", "max_prompt_tokens": 2}, PromptError, "more than max_prompt_tokens=2"),
        ({"kl_coef": -1.0}, ConfigError, "kl_coef must be"),
        ({"requires": {"no_such_package": "tasks"}}, MissingExtra, r"textrl-env\[tasks\]"),
    ],
)
def test_bad_tasks(good: Task, fault: dict[str, Any], error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        check_task(dataclasses.replace(good, **fault))


def test_an_unknown_task():
    with pytest.raises(UnknownName, match="Did you mean 'story'"):
        check_task("storey")


def test_what_it_warns_of(good: Task):
    with pytest.warns(UserWarning, match="1 of 2 held-out prompts are among the training prompts, such as ' HELLO'"):
        check_task(dataclasses.replace(good, heldout_prompts=[" HELLO", "another"]))
    with pytest.warns(UserWarning, match="1 of 1 held-out prompts are among the validation prompts, such as 'another'"):
        check_task(dataclasses.replace(good, validation_prompts=["another"]))
    by_length = dataclasses.replace(
        good, item=lambda row: len(row["prompt"]), validation_prompts=["x"], heldout_prompts=["hollo"]
    )
    with pytest.warns(UserWarning, match="1 of 1 held-out prompts are among the training prompts, such as 'hollo'"):
        check_task(by_length)
    with pytest.warns(UserWarning, match=r"1 of 1 held-out prompts are longer than max_prompt_tokens=24 .* has 41"):
        check_task(dataclasses.replace(good, heldout_prompts=["x" * 40]))
    count = itertools.count()

    def drifts(prompts: list, completions: list) -> list[float]:
        return [float(next(count)) for _ in completions]

    with pytest.warns(UserWarning, match="reward 'drifts' is not deterministic"):
        check_task(dataclasses.replace(good, reward=drifts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_task(good)
