"""Which prompts of a task are trained on, which decide the settings, and which are reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.rewards import reward_name
from textrl_env.tasks.registry import get_task
from textrl_env.tasks.task import Task
from textrl_env.text.prompt_rows import PromptRows, load_rows
from textrl_env.text.prompt_splits import FEWEST, LABELS, SPLITS, prompt_item, split_places
from textrl_env.turns.openings import SeedRows
from textrl_env.user_values import check_names

_ASKED = ("prompts", "validation_prompts", "heldout_prompts", "item", "reward", "gold")
OWN_SHARES = {"heldout": 8, "validation": 8}  # an eighth each


def own_task(
    task: str | Task,
    *,
    prompts: Any = None,
    validation_prompts: Any = None,
    heldout_prompts: Any = None,
    reward: Any = None,
    turns: Any = None,
    **others: Any,
) -> Task:
    """Put the caller's own prompts or reward into the task; `others` are ignored.

    Own prompts take the place of all the task's prompts, since what the task holds out says nothing about them. A task
    with own prompts or an own reward goes by another name. It has no gold score, which belongs to what was replaced.
    An own turn environment takes the place of all that is asked and judged.
    """
    task = get_task(task)
    if turns is not None and turns is not task.turns and turns != task.turns:
        nothing: dict[str, Any] = dict.fromkeys(_ASKED)
        task = dataclasses.replace(task, name=f"turns of {_name(turns)}", turns=turns, **nothing)
    own_prompts = {"prompts": prompts, "validation_prompts": validation_prompts, "heldout_prompts": heldout_prompts}
    own_prompts = {name: value for name, value in own_prompts.items() if value is not None}
    own_reward = reward is not None and reward is not task.reward and reward != task.reward
    if not own_prompts and not own_reward:
        return task
    if prompts is not None:
        own_prompts = {"validation_prompts": None, "heldout_prompts": None, "item": None, **own_prompts}
    judged = f"reward {_name(reward)}" if own_reward else f"reward of {task.name}"
    asked = "own prompts" if own_prompts else f"prompts of {task.name}"
    given = {"reward": reward} if own_reward else {}
    return dataclasses.replace(task, name=f"{judged} on {asked}", gold=None, **own_prompts, **given)


def split_rows(task: Task, split: str) -> PromptRows | None:
    """Load the task's rows of that split; None where it has none. Raises UnknownName, and PromptError for bad rows."""
    check_names("split", [split], SPLITS)
    if task.prompts is None and task.turns is not None:
        return SeedRows(split)
    named = {"validation": task.validation_prompts, "heldout": task.heldout_prompts}
    if named.get(split) is not None:
        rows = load_rows(_made(named[split]))
        return rows if len(rows) else None
    rows = load_rows(_made(task.prompts))
    taken = {name: share for name, share in OWN_SHARES.items() if named[name] is None}
    if not taken:
        return rows
    about = task.item or prompt_item
    places = split_places([about({"prompt": text, **columns}) for text, columns in rows], taken)[split]
    if len(places) == len(rows):
        return rows
    return rows.selected(places) if places else None


def best_split(task: str | Task, wanted: str, arguments: Mapping[str, Any] | None = None) -> str:
    """Return `wanted` where an environment of that task and these arguments has such prompts; else "train"."""
    return wanted if split_rows(own_task(**{**(arguments or {}), "task": task}), wanted) is not None else "train"


def missing_split(task: Task, split: str) -> ConfigError:
    """Make the error that says that the task has no prompts of that split, and what to do."""
    return ConfigError(
        f"task {task.name!r} has no {LABELS[split]}, and fewer than {FEWEST} different ones to take them from; pass "
        f"{split}_prompts="
    )


def _made(source: Any) -> Any:
    return source() if callable(source) else source


def _name(reward: Any) -> str:
    """Name a reward, by the text that it was given as where there is one."""
    if isinstance(reward, (list, tuple, Mapping)):
        return "of several parts"
    return str(reward) if isinstance(reward, str) else reward_name(reward)
