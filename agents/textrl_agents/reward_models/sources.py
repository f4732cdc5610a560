"""Where records and true preferences come from, as a command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.preferences.feedback_file import read_feedback
from textrl_env.preferences.records import Record
from textrl_env.preferences.store import FeedbackStore
from textrl_env.rewards.make import make_reward
from textrl_env.tasks.registry import get_task
from textrl_env.user_values import user_path

_SQLITE = b"SQLite format 3\0"  # the first bytes of every such file


def feedback_records(path: str | Path) -> list[Record]:
    """All records of a feedback store, or of a file in any format that `textrl feedback import` takes.

    Raises ConfigError where the file is not there, or holds no feedback.
    """
    file = user_path(path)
    if not file.is_file():
        raise ConfigError(f"{shown(str(file), 300)} is no file; give a feedback store or a file of JSON lines")
    try:
        with file.open("rb") as opened:
            is_store = opened.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise ConfigError(f"{shown(str(file), 300)} cannot be read: {error.strerror}") from error
    if not is_store:
        return read_feedback(file)[0]
    with FeedbackStore(file, read_only=True) as store:
        return list(store.records())


def gold_of(task: str) -> Any:
    """The reward that is a task's gold score. Raises UnknownName, and ConfigError where the task has none."""
    gold = get_task(task).gold
    if gold is None:
        raise ConfigError(f"task {task!r} has no gold score; name one that has, such as sentiment")
    return make_reward(gold)
