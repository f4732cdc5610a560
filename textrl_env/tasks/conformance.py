"""A check that users can run on their own task before training on it."""

from __future__ import annotations

import itertools
import warnings

import numpy as np

from textrl_env.actions import parse_actions
from textrl_env.errors import ConfigError, PromptError, RewardError
from textrl_env.mdp import TokenMDP
from textrl_env.rewards import check_reward, make_reward
from textrl_env.tasks.assembly import Assembly, assemble
from textrl_env.tasks.registry import get_task
from textrl_env.tasks.splits import best_split
from textrl_env.tasks.task import Task
from textrl_env.tasks.turn_conformance import check_turns
from textrl_env.text.prompt_splits import LABELS, SPLITS, prompt_item
from textrl_env.text.prompts import PromptSet, columns_of

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
UNCUT = 10**9
"""Tokens of a prompt that is not cut."""


def check_task(task: str | Task) -> None:
    """Build and run a task as an environment will, and say what would go wrong.

    Every prompt of each split is encoded, or a turn environment plays some episodes of each, see `check_turns`. Reward
    and gold score are tried on samples, among them an empty response, with the columns that the prompts bring. Episodes
    are run step by step.

    Warns (`UserWarning`) where held-out or validation prompts are missing; where two splits have an item in common;
    where prompts are longer than `max_prompt_tokens` and will be cut; and where two calls of a reward give different
    scores.

    Raises UnknownName where there is no such task; ConfigError where a part cannot be made or the limits do not fit the
    model; PromptError where a prompt cannot be encoded or the splits' columns differ; RewardError where the reward or
    the gold score failed (the message says which); and MissingExtra where a package that the task needs is not
    installed.
    """
    task = get_task(task)
    splits = [split for split in SPLITS if split == "train" or best_split(task, split) == split]
    for split in SPLITS:
        if split not in splits:
            what = f"task {task.name!r} has no {LABELS[split]}: evaluations take the training prompts, and say so"
            warnings.warn(what, stacklevel=2)
    # the parts without the weights: prompts and rewards need none
    assembled = {split: assemble(task, split=split, kl_mode="deferred", with_reference=False) for split in splits}
    for split, parts in assembled.items():
        (_check_prompts if parts.rules.turns is None else check_turns)(task, split, parts)
    for one, other in itertools.combinations(assembled, 2):
        if task.prompts is not None:  # else no two splits have a seed in common
            _check_splits(task, assembled[one].prompts, assembled[other].prompts)
    for split, parts in assembled.items():
        _check_rewards(task, split, parts)
    _check_episode(task)


def _check_prompts(task: Task, split: str, parts: Assembly) -> None:
    """Every prompt encodes; those that are cut are counted."""
    prompts = parts.prompts
    whole = PromptSet(
        [{"prompt": prompt.text, **prompt.columns} for prompt in prompts],
        parts.rules.tokenizer,
        max_prompt_tokens=UNCUT,
    )
    lengths = [len(prompt.ids) for prompt in whole]
    too_long = sum(length > prompts.max_prompt_tokens for length in lengths)
    if too_long:
        warnings.warn(
            f"task {task.name!r}: {too_long} of {len(lengths)} {LABELS[split]} are longer than "
            f"max_prompt_tokens={prompts.max_prompt_tokens} and are cut from the left; the longest has {max(lengths)}",
            stacklevel=3,  # where `check_task` was called
        )


def _check_splits(task: Task, one: PromptSet, other: PromptSet) -> None:
    if one.column_names != other.column_names:
        raise PromptError(
            f"task {task.name!r}: the {LABELS[one.split]} have the columns {sorted(one.column_names)}, the "
            f"{LABELS[other.split]} {sorted(other.column_names)}; both need the same, the reward gets them"
        )
    about = task.item or prompt_item
    items, others = ([repr(about({"prompt": p.text, **p.columns})) for p in prompts] for prompts in (one, other))
    known = set(items)
    shared = [prompt.text for prompt, item in zip(other, others, strict=True) if item in known]
    if shared:
        warnings.warn(
            f"task {task.name!r}: {len(shared)} of {len(other)} {LABELS[other.split]} are among the "
            f"{LABELS[one.split]}, such as {shared[0]!r:.80}; scores on them do not show what is learned for others",
            stacklevel=3,  # where `check_task` was called
        )


def _check_rewards(task: Task, split: str, parts: Assembly) -> None:
    """Reward and gold score on every sample completion, each to another prompt while there are enough."""
    places = np.linspace(0, len(parts.prompts) - 1, len(COMPLETIONS)).astype(int)
    prompts = [parts.prompts[int(place)] for place in places]
    completion_ids = parts.rules.tokenizer(list(COMPLETIONS), add_special_tokens=False).input_ids
    reasons = parts.rules.finish_reasons(completion_ids)
    columns = {**columns_of(prompts), "completion_ids": completion_ids, "finish_reason": reasons}
    for role, given in (("reward", task.reward), ("gold score", task.gold)):
        if given is None:
            continue
        try:
            check_reward(make_reward(given), [prompt.text for prompt in prompts], COMPLETIONS, columns)
        except (RewardError, ConfigError) as error:
            # the same error, so that it can be caught alike, with its place in front
            error.args = (f"the {role} of task {task.name!r}, on {LABELS[split]}: {error}", *error.args[1:])
            raise


def _check_episode(task: Task) -> None:
    """Run episodes of random tokens to their end, in two rows, by the transition that every environment is made of."""
    parts = assemble(task, device="cpu")
    mdp, vocabulary = TokenMDP(parts.rules, 2), parts.rules.vocabulary.size
    np_random = np.random.default_rng(0)
    try:
        mdp.reset_rows([0, 1], [parts.prompts.sample(np_random) for _ in range(2)])
        while mdp.running.any():
            mdp.step(parse_actions(np_random.integers(vocabulary, size=2), 2, vocabulary), mdp.running.copy())
    finally:
        mdp.close()
