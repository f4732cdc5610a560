"""A page for each task, in the order of Gymnasium's pages, and their list."""

from __future__ import annotations

import importlib
from typing import Any

from generators.docstrings import first_sentence, markdown
from generators.episodes import played, policy_of, shown
from textrl_env import TextGenEnv
from textrl_env.rewards.protocol import reward_name
from textrl_env.tasks import Task, get_task
from textrl_env.tasks.registry import BUILT_IN
from textrl_env.tasks.splits import split_rows
from textrl_env.text.prompt_splits import LABELS, SPLITS

EPISODE_SEED = 4
GENERAL = "../../environments/textrlhf.md"  # of all tasks


def task_list() -> str:
    """Return a table of all tasks that ship, each with a link to its page."""
    rows = ["| task | what is asked for | reward | gold score | turns |", "|---|---|---|---|---|"]
    for name in BUILT_IN:
        task = get_task(name)
        gold = "" if task.gold is None else judge(task.gold)
        turns = "" if task.turns is None else f"at most {task.max_turns}"
        reward = "the turns' own" if task.reward is None else judge(task.reward)
        rows.append(f"| [{name}](../generated/tasks/{name}.md) | {task.description} | {reward} | {gold} | {turns} |")
    return "\n".join(rows)


def task_page(name: str) -> str:
    """Return the page of one task. It plays an episode with the task's own model."""
    task = get_task(name)
    env = TextGenEnv(name, render_mode="ansi")
    try:
        played(env, policy_of(env), EPISODE_SEED)
        return "\n\n".join(_parts(name, task, env)) + "\n"
    finally:
        env.close()


def judge(reward: Any) -> str:
    """Name a reward or a gold score."""
    parts = getattr(reward, "rewards", None)
    if parts is not None:
        return " + ".join(f"`{name}`" for name in parts)
    return f"`{reward}`" if isinstance(reward, str) else f"`{reward_name(reward)}`"


def _parts(name: str, task: Task, env: TextGenEnv) -> list[str]:
    space = env.observation_space
    return [
        f"# TextRLHF-{name.capitalize()}-v0",
        f'`gymnasium.make("TextRLHF-{name.capitalize()}-v0")`, or `task="{name}"` wherever a task is named: '
        f"{task.description}.",
        "## Description",
        _description(name, task),
        "## Action Space",
        f"`Discrete({env.action_space.n})`: the next token, see [TextRLHF-v0]({GENERAL}#action-space).",
        "## Observation Space",
        f"`Box(-1, {env.action_space.n - 1}, {space.shape}, {space.dtype})`: at most {env.rules.max_prompt_tokens} "
        f"tokens of the prompt and {env.rules.max_new_tokens} behind it.",
        "## Rewards",
        _rewards(task),
        "## Starting State",
        _prompts(task),
        "## Episode End",
        _end(task, env),
        "## Arguments",
        f"Those of [TextRLHF-v0]({GENERAL}#arguments); each overrides the task's own.",
        "## Info",
        f"As in [TextRLHF-v0]({GENERAL}#info).",
        "## An episode",
        f"By the model that training starts from{_model(task)}, with seed {EPISODE_SEED}. The prompt is in brackets.",
        shown(env),
        "## Version History",
        "- v0: first release.",
    ]


def _description(name: str, task: Task) -> str:
    said = markdown(importlib.import_module(f"textrl_env.tasks.built_in.{name}"))
    if not isinstance(task.turns, str):
        return said
    return f"{said}\n\n{markdown(importlib.import_module(f'textrl_env.turns.built_in.{task.turns}'))}"


def _rewards(task: Task) -> str:
    lines = []
    parts = getattr(task.reward, "rewards", None)
    if task.reward is None:
        lines.append("- The turn environment's rewards, each paid on its turn's last token; their sum is the score.")
    elif parts is None:
        lines.append(f"- {judge(task.reward)} scores the response, on its last token. {_about(task.reward)}")
    else:
        lines.append("- A weighted sum scores the response, on its last token:")
        for name, part in parts.items():
            lines.append(f"  - {task.reward.weights[name]} of `{name}`. {_about(part)}")
    if task.gold is not None:
        lines.append(f"- {judge(task.gold)} is the gold score, reported and never trained on. {_about(task.gold)}")
    lines.append(f"- Each token pays {task.kl_coef} times an estimate of its KL (`{task.kl_estimator}`).")
    return "\n".join(lines)


def _about(reward: Any) -> str:
    """Say what a reward scores: a name's page has it, a function's docstring says it."""
    if isinstance(reward, str):
        return f"See [Rewards](../../rewards.md#{reward})."
    return first_sentence(getattr(reward, "function", reward))


def _prompts(task: Task) -> str:
    if task.turns is not None and task.prompts is None:
        return (
            "An episode follows from its seed. Of eight seeds in a row five are trained on, one is for validation and "
            "two are held out."
        )
    lines = []
    for split in SPLITS:
        rows = split_rows(task, split)
        if rows is not None:
            lines.append(f"- {len(rows):,} {LABELS[split]}")
    text, columns = next(iter(split_rows(task, "train") or ()))
    asked = text if isinstance(text, str) else "\n".join(f"{each['role']}: {each['content']}" for each in text)
    values = f" Its columns: {', '.join(f'`{column}`' for column in columns)}." if columns else ""
    return "\n".join([*lines, "", f"The first one.{values}", "", f"```text\n{asked}\n```"])


def _end(task: Task, env: TextGenEnv) -> str:
    stops = f", at {', '.join(f'`{stop!r}`' for stop in task.stop)}" if task.stop else ""
    if task.turns is None:
        return f"`terminated` at EOS{stops} or after {env.rules.max_new_tokens} tokens. The score is paid in each case."
    return (
        f"`terminated` where the turn environment ends it, after {task.max_turns} turns, or after "
        f"{env.rules.max_new_tokens} tokens behind the prompt. A turn ends at EOS or the template's end of turn{stops}"
        f"{'' if task.max_turn_tokens is None else f', or after {task.max_turn_tokens} tokens'}."
    )


def _model(task: Task) -> str:
    return f" (`{task.model}`)" if isinstance(task.model, str) else ""
