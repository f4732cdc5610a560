"""Responses of the reference with their gold scores: those that are compared, and those that best-of-n chooses from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from textrl_agents.algorithms.cell_setup import initial_policy
from textrl_agents.benchmark.overoptimization.plan import OveroptimizationPlan
from textrl_agents.rollout import PromptQueue, respond
from textrl_agents.runs.atomic import write_atomically
from textrl_agents.training.random_state import own_generator
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.tasks import Task, get_task
from textrl_env.text.prompts import Prompt, PromptSet

ROWS = 64  # sampled at once
# Generators of their own, so that the numbers of one part of the plan change nothing in another.
COMPARED, CHOSEN = 1, 2


class Samples(NamedTuple):
    """Responses, several to each prompt, side by side. gold: float64 [prompts, responses to each]."""

    prompts: list[Any]
    responses: list[list[str]]
    columns: list[dict[str, Any]]
    gold: np.ndarray

    @property
    def conversations(self) -> tuple[list[Any], list[str]]:
        """Each response with its prompt, as two lists."""
        flat = [(prompt, text) for prompt, texts in zip(self.prompts, self.responses, strict=True) for text in texts]
        return [prompt for prompt, _ in flat], [text for _, text in flat]


def task_of(plan: OveroptimizationPlan, reward: Any) -> Task:
    """The plan's task with another reward; its gold score stays, since it is the truth about it."""
    task = get_task(plan.task)
    return dataclasses.replace(task, reward=reward, model=task.model if plan.model is None else plan.model)


def heldout_prompts(prompts: PromptSet, plan: OveroptimizationPlan) -> list[Prompt]:
    """The prompts that judge, drawn from the task's held-out ones by the plan's seed; all of them where it has fewer.

    Raises ConfigError where there is one alone, since half of them judge and half choose.
    """
    if len(prompts) < 2:
        raise ConfigError(f"task {plan.task!r} has one held-out prompt; over-optimisation is judged by two or more")
    drawn = np.random.default_rng([plan.seed, CHOSEN]).permutation(len(prompts))[: plan.prompts]
    return [prompts[int(place)] for place in drawn]


def sample_pairs(plan: OveroptimizationPlan) -> Samples:
    """Two responses to each of `plan.pairs` training prompts; a prompt comes again where there are fewer."""
    env = _environment(plan, "train")
    rng = np.random.default_rng([plan.seed, COMPARED])
    rounds = -(-plan.pairs // len(env.prompts))
    places = np.concatenate([rng.permutation(len(env.prompts)) for _ in range(rounds)])[: plan.pairs]
    return _sampled(env, [env.prompts[int(place)] for place in places], 2, plan.seed * 4 + COMPARED)


def sample_candidates(plan: OveroptimizationPlan) -> Samples:
    """`plan.candidates` responses to each of the prompts that judge."""
    env = _environment(plan, "heldout")
    return _sampled(env, heldout_prompts(env.prompts, plan), plan.candidates, plan.seed * 4 + CHOSEN)


def write_samples(samples: Samples, path: Path) -> None:
    """One line of JSON for each prompt, whole or not at all."""
    lines = [
        json.dumps({"prompt": prompt, "columns": columns, "responses": responses, "gold": gold}, default=str)
        for prompt, columns, responses, gold in zip(
            samples.prompts, samples.columns, samples.responses, samples.gold.tolist(), strict=True
        )
    ]
    write_atomically(path, "\n".join(lines) + "\n")


def read_samples(path: Path) -> Samples:
    """What `write_samples` wrote. Raises TextRLError where it is damaged."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        gold = np.array([row["gold"] for row in rows], dtype=np.float64)
        return Samples(
            [row["prompt"] for row in rows],
            [row["responses"] for row in rows],
            [row["columns"] for row in rows],
            gold,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TextRLError(f"{path} cannot be read ({error}); remove it, and the same command samples again") from error


def _environment(plan: OveroptimizationPlan, split: str) -> TextGenVectorEnv:
    return TextGenVectorEnv(
        ROWS,
        task_of(plan, _unscored),
        split=split,
        device=plan.device,
        kl_mode="deferred",
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


def _sampled(env: TextGenVectorEnv, prompts: Sequence[Prompt], count: int, seed: int) -> Samples:
    queue = PromptQueue(prompts, repeats=count, limit=env.rules.max_new_tokens)
    with own_generator(seed):
        found = respond(initial_policy(env), env.rules, queue, rows=ROWS)
    texts = [each.response for each in found]
    gold = np.array([each.gold_score for each in found], dtype=np.float64)
    return Samples(
        [prompt.text for prompt in prompts],
        [texts[start : start + count] for start in range(0, len(texts), count)],
        [dict(prompt.columns) for prompt in prompts],
        gold.reshape(len(prompts), count),
    )


def _unscored(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Every response scores 0: only its gold score counts here."""
    return [0.0] * len(completions)
