"""Simulated comparisons with wrong labels, and the reward models that learn from them: the proxies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from textrl_agents.benchmark.overoptimization.plan import OveroptimizationPlan
from textrl_agents.benchmark.overoptimization.sampling import Samples
from textrl_agents.feedback.simulated import SimulatedAnnotator
from textrl_agents.reward_models import train_reward_model
from textrl_env.errors import ConfigError
from textrl_env.models.storage.loading import EMBEDDED
from textrl_env.preferences.question import Question
from textrl_env.preferences.records import Candidate, Comparison
from textrl_env.tasks import get_task

HELDOUT = 0.1  # share of the prompts of a proxy's comparisons that judge the proxy
SHOWN = (0, 1)  # left and right; these annotators look at both
REFERENCE = 512  # responses on which its scores get mean 0 and standard deviation 1


def simulated_comparisons(samples: Samples, plan: OveroptimizationPlan, *, size: int, seed: int) -> list[Comparison]:
    """`size` comparisons of one annotator, `plan.noise` of whose answers are wrong on average.

    Pairs whose gold scores are equal have no right answer and are not asked about. A larger size of the same seed
    holds the comparisons of a smaller one, with the same errors. Raises ConfigError where there are too few pairs.
    """
    annotator = SimulatedAnnotator(f"simulated-{seed}", error_rate=plan.noise, seed=plan.seed)
    order = np.random.default_rng([plan.seed, seed]).permutation(len(samples.prompts))
    comparisons: list[Comparison] = []
    for place in order.tolist():
        first, second = samples.responses[place]
        if first == second or samples.gold[place, 0] == samples.gold[place, 1]:
            continue
        question = Question("comparison", samples.prompts[place], (Candidate(first), Candidate(second)))
        said = annotator.judge(question, SHOWN, samples.gold[place])
        comparisons.append(
            Comparison(
                prompt=question.prompt,
                candidates=question.candidates,
                order=SHOWN,
                annotator=annotator.name,
                **said,
            )
        )
        if len(comparisons) == size:
            return comparisons
    raise ConfigError(
        f"only {len(comparisons)} of {len(samples.prompts)} pairs have different gold scores, and {size} comparisons "
        "are wanted: raise pairs, or lower the sizes"
    )


def train_proxy(
    samples: Samples, plan: OveroptimizationPlan, *, size: int, seed: int, members: int, folder: Path
) -> None:
    """Train a reward model, or an ensemble of `members`, and save it in `folder`, which `make_reward` loads."""
    conversations = list(zip(*samples.conversations, strict=True))
    train_reward_model(
        simulated_comparisons(samples, plan, size=size, seed=seed),
        out=folder,
        kind=plan.kind,
        model=policy_name(plan),
        pooling=plan.pooling,
        ensemble=members,
        combine="worst" if members > 1 else "mean",
        coefficient=plan.coefficient,
        seed=seed,
        heldout=HELDOUT,
        reference=conversations[:REFERENCE],
        device=plan.device,
        plot=False,
    )


def policy_name(plan: OveroptimizationPlan) -> str:
    """The policy's model by name, whose trunk the proxies read. Raises ConfigError where a task makes its own."""
    model = plan.model if plan.model is not None else get_task(plan.task).model
    if not isinstance(model, str):
        raise ConfigError(f"task {plan.task!r} makes its model itself; name one with --model, such as {EMBEDDED}")
    return model
