"""The prompts that questions are about, and the limits of the responses to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from textrl_env.errors import ConfigError
from textrl_env.text.prompt_rows import PromptRows, Row, load_rows
from textrl_env.text.prompts import chat_of


@dataclass(frozen=True)
class PromptSource:
    """Prompts with their columns. max_new_tokens, stop: the task's, where there is one."""

    rows: Sequence[Row]
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of_task(cls, name: str, split: str = "train") -> PromptSource:
        """Take a task's training prompts, so that those held out stay unseen, or another split.

        Raises UnknownName, and ConfigError where the task has no such prompts.
        """
        from textrl_env.tasks.registry import get_task
        from textrl_env.tasks.splits import split_rows
        from textrl_env.text.prompt_splits import LABELS

        task = get_task(name)
        if task.turns is not None:
            raise ConfigError(f"people judge single responses, and an episode of task {name!r} has several turns")
        rows = split_rows(task, split)
        if rows is None:
            raise ConfigError(f"task {name!r} has no {LABELS[split]}; give prompts of your own")
        if task.as_chat:
            rows = PromptRows([(chat_of(text, task.system_prompt), columns) for text, columns in rows])
        return cls(rows, task.max_new_tokens, tuple(task.stop))

    @classmethod
    def of_file(cls, source: str) -> PromptSource:
        """Read a .jsonl or .txt file, or a data set, as `PromptSet` takes it. Raises PromptError."""
        rows = load_rows(source)
        if len(rows) == 0:
            raise ConfigError(f"prompts {source!r} is empty; give at least one prompt")
        return cls(rows)

    def drawn(self, count: int, seed: int) -> PromptSource:
        """Return `count` of the prompts in a random order, or all where there are fewer."""
        places = random.Random(seed).sample(range(len(self.rows)), min(count, len(self.rows)))
        return replace(self, rows=[self.rows[place] for place in places])
