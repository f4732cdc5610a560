"""What a user's turn environment must do, tried out on some episodes before a training."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import numpy as np

from textrl_env.tasks.assembly import Assembly
from textrl_env.tasks.task import Task
from textrl_env.text.prompt_splits import LABELS
from textrl_env.text.prompts import Prompt
from textrl_env.turns.rows import TurnRows
from textrl_env.turns.turn_env import Reply

EPISODES = 8
REPLIES = ("7", "Yes.", "", "What do you mean?", "<call>nothing</call>", "\u975e\u5e38\u597d \U0001f600\n")
"""What the policy is made to say."""
_UNCUT = 10**9  # tokens


def check_turns(task: Task, split: str, parts: Assembly) -> None:
    """Play episodes of the split's first prompts or seeds, each twice with the same replies.

    Warns (`UserWarning`) where an opening is longer than `max_prompt_tokens` and will be cut, where the same seed and
    the same replies give different episodes, and where the turn environment cannot be saved or goes on otherwise once
    it was restored.

    Raises a TurnError where it fails, and ConfigError where it does not take the state that it gave.
    """
    rules = parts.rules.turns
    assert rules is not None
    rows = TurnRows(rules, 1)
    faults: dict[str, None] = {}  # each once, in their order
    try:
        for index in range(min(EPISODES, len(parts.prompts))):
            prompt, replies = parts.prompts[index], REPLIES[index % len(REPLIES) :] + REPLIES
            opened, course = _played(rows, prompt, replies)
            if rules.truncates and len(opened.ids) > parts.prompts.max_prompt_tokens:  # else it is refused, and said so
                faults["begins with more tokens than max_prompt_tokens, and is cut from the left"] = None
            if (opened.text, course) != ((again := _played(rows, prompt, replies))[0].text, again[1]):
                faults["gave two episodes for one seed and the same replies: no group compares like with like"] = None
            faults |= dict.fromkeys(_saving_faults(rows, prompt, replies))
    finally:
        rows.close()
    for fault in faults:
        warnings.warn(f"the turn environment of task {task.name!r}, on {LABELS[split]}, {fault}", stacklevel=3)


def _played(rows: TurnRows, prompt: Prompt, replies: tuple[str, ...]) -> tuple[Prompt, list[Reply]]:
    """Play an episode to its end, or to the last turn that is allowed."""
    (opened,) = rows.begin([0], [prompt], _UNCUT)
    course: list[Reply] = []
    for text in itertools.islice(itertools.cycle(replies), rows.rules.max_turns):
        course.append(_answered(rows, text))
        if course[-1].terminated or course[-1].truncated:
            break
    return opened, course


def _answered(rows: TurnRows, text: str) -> Reply:
    (reply,) = rows.ask([0], [text])
    rows.commit(0, {"action": text, "reply": reply.message, "role": reply.role, "score_parts": reply.score_parts})
    return reply


def _saving_faults(rows: TurnRows, prompt: Prompt, replies: tuple[str, ...]) -> list[str]:
    """Play two turns; save after the first and restore, and compare the second."""
    rows.begin([0], [prompt], _UNCUT)
    first = _answered(rows, replies[0])
    if first.terminated or first.truncated or rows.rules.max_turns == 1:
        return []
    if rows.state_dict(np.array([True]))[0]["env"] is None:
        return ["has no get_state and set_state: a run that stops in the midst of an episode cannot be resumed exactly"]
    twin: Any = copy.deepcopy(rows)
    try:
        if _answered(twin, replies[1]) != _answered(rows, replies[1]):
            return ["goes on otherwise once its state was saved and restored"]
    finally:
        twin.close()
    return []
