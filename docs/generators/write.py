"""Writes what is generated: `docs/generated/` holds it, and is never committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import textrl_env.errors
from generators.algorithms import about_algorithm, algorithm_list, settings_and_row
from generators.arguments import argument_list
from generators.commands import command_page
from generators.docstrings import markdown, section
from generators.episodes import played, policy_of, shown, step_table
from generators.rewards import reward_list, reward_sections
from generators.tasks import EPISODE_SEED, task_list, task_page
from textrl_agents.algorithms.registry import built_in_names
from textrl_env import TextGenEnv
from textrl_env.finetune import FineTuneEnv
from textrl_env.tasks.registry import BUILT_IN
from textrl_env.vector_env import TextGenVectorEnv

FOLDER = Path(__file__).parents[1] / "generated"
Part = tuple[str, Callable[[], str]]


def write_pages(folder: Path = FOLDER) -> None:
    """Write all parts below `folder`. A file whose text is the same is left alone, so that Sphinx reads it once."""
    for name, make in parts():
        path, text = folder / name, make()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def parts() -> Iterator[Part]:
    """Yield each part's path and what makes it. Those in `parts/` are included by pages, the others are pages."""
    yield "parts/tasks.md", task_list
    yield "parts/algorithms.md", algorithm_list
    yield "parts/rewards.md", reward_list
    yield "parts/reward_sections.md", reward_sections
    yield "parts/arguments.md", argument_list
    yield "parts/errors.md", partial(_code, textrl_env.errors.__doc__ or "")
    yield "parts/textrlhf.md", environment_page
    yield "parts/vector.md", partial(markdown, TextGenVectorEnv)
    yield "parts/finetune.md", partial(markdown, FineTuneEnv)
    yield "parts/episode.md", one_episode
    for name in built_in_names():
        yield f"parts/algorithm-{name}.md", partial(about_algorithm, name)
        yield f"parts/settings-{name}.md", partial(settings_and_row, name)
    for name in BUILT_IN:
        yield f"tasks/{name}.md", partial(task_page, name)
    yield "commands.md", command_page


def environment_page() -> str:
    """Return the docstring of `TextGenEnv`, with the table of arguments in place of their names."""
    said = markdown(TextGenEnv)
    return said.replace(section(said, "Arguments"), f"`task` bundles the rest.\n\n{argument_list()}")


def one_episode() -> str:
    """Return an episode of the default task, step by step. The model is cut to top-p, so that there is a KL to see."""
    env = TextGenEnv("sentiment", render_mode="ansi", kl_mode="log_ratio", sampling={"top_p": 0.9})
    steps = played(env, policy_of(env), EPISODE_SEED)
    return f"{shown(env)}\n\n{step_table(env, steps)}\n"


def _code(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n"
