"""A check that users can run on their own task before training on it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from textrl_env.env import TextGenEnv
from textrl_env.errors import ConfigError, PromptError, RewardError
from textrl_env.prompts import PromptSet
from textrl_env.rewards import check_reward, make_reward
from textrl_env.tasks.assembly import SPLITS, Assembly, assemble
from textrl_env.tasks.registry import Task, get_task
from textrl_env.vector_env import TextGenVectorEnv

COMPLETIONS = (
    "",
    " good",
    " warm and good.",
    " \u975e\u5e38\u597d " * 12,
    " \U0001f600\n",
    " 7",
    "good good good",
    ".",
)
"""What the rewards are tried on."""


def check_task(task: str | Task) -> None:
    """Build and run a task as an environment will, and say what would go wrong.

    Every prompt of both splits is encoded; reward and gold score are tried on samples, among them an empty response,
    with the columns that the prompts bring; one episode is run step by step.

    Warns (`UserWarning`) where held-out prompts are missing, or are among those to train on; where prompts are longer
    than `max_prompt_tokens` and will be cut; and where two calls of a reward give different scores.

    Raises:
        ConfigError: A part cannot be made, or the limits do not fit the model; UnknownName where there is no such task.
        PromptError: A prompt cannot be encoded, or the splits' columns differ.
        RewardError: The reward or the gold score failed; the message names it, and says which it is.
        MissingExtra: A package that the task needs is not installed.
    """
    task = get_task(task)
    splits = SPLITS if task.heldout_prompts is not None else SPLITS[:1]
    if len(splits) == 1:
        _warn(f"task {task.name!r} has no held-out prompts: nothing can be evaluated on unseen ones", depth=1)
    # the parts without the weights: prompts and rewards need none
    assembled = {split: assemble(task, split=split, kl_mode="deferred", with_reference=False) for split in splits}
    for split, parts in assembled.items():
        _check_prompts(task, split, parts)
    if "heldout" in assembled:
        _check_splits(task, assembled["train"].prompts, assembled["heldout"].prompts)
    for split, parts in assembled.items():
        _check_rewards(task, split, parts)
    _check_episode(task)


def _warn(message: str, *, depth: int) -> None:
    """A warning at the line that called `check_task`, which is `depth` calls above this one's caller."""
    warnings.warn(message, stacklevel=2 + depth)


def _check_prompts(task: Task, split: str, parts: Assembly) -> None:
    """Every prompt encodes; those that are cut are counted."""
    prompts = parts.prompts
    whole = PromptSet(
        [{"prompt": prompt.text, **prompt.columns} for prompt in prompts],
        parts.rules.tokenizer,
        max_prompt_tokens=10**9,
    )
    lengths = [len(prompt.ids) for prompt in whole]
    too_long = sum(length > prompts.max_prompt_tokens for length in lengths)
    if too_long:
        _warn(
            f"task {task.name!r}: {too_long} of {len(lengths)} {split} prompts are longer than "
            f"max_prompt_tokens={prompts.max_prompt_tokens} and are cut from the left; the longest has {max(lengths)}",
            depth=2,
        )


def _check_splits(task: Task, train: PromptSet, heldout: PromptSet) -> None:
    if train.column_names != heldout.column_names:
        raise PromptError(
            f"task {task.name!r}: the train prompts have the columns {sorted(train.column_names)}, the held-out ones "
            f"{sorted(heldout.column_names)}; both need the same, the reward gets them"
        )
    known = {repr(prompt.text) for prompt in train}
    shared = [prompt.text for prompt in heldout if repr(prompt.text) in known]
    if shared:
        _warn(
            f"task {task.name!r}: {len(shared)} of {len(heldout)} held-out prompts are among the train prompts, such "
            f"as {shared[0]!r:.80}; scores on them do not show what is learned for others",
            depth=2,
        )


def _check_rewards(task: Task, split: str, parts: Assembly) -> None:
    """Reward and gold score on every sample completion, each to another prompt while there are enough."""
    places = np.linspace(0, len(parts.prompts) - 1, len(COMPLETIONS)).astype(int)
    prompts = [parts.prompts[int(place)] for place in places]
    columns: dict[str, list[Any]] = {
        name: [prompt.columns[name] for prompt in prompts] for name in parts.prompts.column_names
    }
    columns["completion_ids"] = parts.rules.tokenizer(list(COMPLETIONS), add_special_tokens=False).input_ids
    for role, given in (("reward", task.reward), ("gold score", task.gold)):
        if given is None:
            continue
        try:
            check_reward(make_reward(given), [prompt.text for prompt in prompts], COMPLETIONS, columns)
        except (RewardError, ConfigError) as error:
            # the same error, so that it can be caught alike, with its place in front
            error.args = (f"the {role} of task {task.name!r}, on {split} prompts: {error}", *error.args[1:])
            raise


def _check_episode(task: Task) -> None:
    """One episode of random tokens in the single environment, and a step of the vector environment."""
    env = TextGenEnv(task, device="cpu")
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    terminated = False
    while not terminated:
        observation, _, terminated, _, _ = env.step(env.action_space.sample())
        if not env.observation_space.contains(observation):
            raise ConfigError(f"task {task.name!r}: the observation {observation} is not in {env.observation_space}")
    env.close()
    vector_env = TextGenVectorEnv(2, task, device="cpu")
    vector_env.reset(seed=0)
    vector_env.step(np.array([env.action_space.sample() for _ in range(2)]))
    vector_env.close()
