"""`check_task` on turn environments of users: what it plays, and what it warns of."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from typing import Any

import pytest

from textrl_env.errors import PromptTooLong, TurnRaised
from textrl_env.tasks import Task
from textrl_env.tasks.conformance import check_task

COUNTER = itertools.count()


class Good:
    """Counts replies."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.count = 0
        return f"Say {seed}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return f"That was number {self.count}.", 0.5, self.count == 3, False, {}

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        self.count = state


class Unsaved(Good):
    """Cannot be saved."""

    get_state = None  # type: ignore[assignment]


class Forgetful(Good):
    """Forgets its state."""

    def set_state(self, state: int) -> None:
        self.count = 0


class Moody(Good):
    """Does not follow from its seed."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed)
        return f"Say {next(COUNTER)}.", {}


class Long(Good):
    """Begins with a long text."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed)
        return "very " * 200, {}


class Failing(Good):
    """Takes no question."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if "?" in action:
            raise KeyError(action)
        return super().step(action)


def task_of(turns: Any) -> Task:
    limits = {"max_turns": 3, "max_prompt_tokens": 32, "max_turn_tokens": 4, "max_new_tokens": 80}
    return Task("mine", turns=turns, prompt_overflow="truncate", **limits)  # type: ignore[arg-type]


def test_a_good_turn_environment_passes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_task(task_of(Good))


@pytest.mark.parametrize(
    ("turns", "warning"),
    [
        (Unsaved, "has no get_state and set_state"),
        (Forgetful, "goes on otherwise once its state was saved and restored"),
        (Moody, "gave two episodes for one seed and the same replies"),
        (Long, "begins with more tokens than max_prompt_tokens"),
    ],
)
def test_what_will_go_wrong_is_warned_of(turns: type, warning: str) -> None:
    with pytest.warns(UserWarning, match=warning) as told:
        check_task(task_of(turns))
    messages = {str(each.message) for each in told}
    assert len(messages) == 3  # one a split
    assert all("turn environment of task 'mine', on " in message for message in messages)


def test_an_opening_that_is_not_to_be_cut_is_refused() -> None:
    whole = dataclasses.replace(task_of(Long), prompt_overflow="error")
    with pytest.raises(PromptTooLong, match="began an episode with 210 tokens"):
        check_task(whole)


def test_one_that_fails_is_told_with_what_it_was_asked() -> None:
    with pytest.raises(TurnRaised, match=r"told 'What do you mean\?'"):
        check_task(task_of(Failing))
