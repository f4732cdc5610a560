"""Expert iteration: sample, keep the best, fine-tune on them, and again with the better policy.

Anthony et al. 2017 (https://arxiv.org/abs/1705.08439); for language models Dong et al. 2023 (RAFT,
https://arxiv.org/abs/2304.06767). The reward alone chooses: nothing holds the policy near the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Record, Trained, as_settings
from textrl_agents.algorithms.response_groups import best, groups, means, sampled_in_parts
from textrl_agents.training.learning_rate import FULL, HALF
from textrl_env.errors import ConfigError
from textrl_env.user_values import check_whole

if TYPE_CHECKING:  # what an algorithm is, is read without waiting for torch
    import numpy as np
    import torch

    from textrl_env.models import CausalLMActorCritic
    from textrl_env.trajectory import Trajectory

KEEP = ("best", "quantile")


@dataclass(frozen=True)
class ExpertIterationSettings:
    """How a round goes.

    rounds: equal shares of the budget, each sampled with the policy that the last one left.
    n: responses to each prompt. keep: "best" keeps the best response to each prompt, "quantile" as many of all the
        round's responses, whatever their prompts.
    epochs: passes over the kept ones. batch_size: responses of a minibatch.
    learning_rate: Adam's, as `learning_schedule` takes it.
    max_grad_norm: gradients are clipped to it.
    """

    rounds: int = 8
    n: int = 4
    keep: str = "best"
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float | Mapping[str, float] | None = None
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        check_whole("n", self.n, 2)
        if self.keep not in KEEP:
            raise ConfigError(f"keep must be one of {', '.join(KEEP)}, got {self.keep!r}")
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be a number > 0, got {self.max_grad_norm!r}")


def train(cell: Cell, record: Record) -> Trained:
    """Rounds of sampling and fine-tuning; a point of the curve for each, of the policy that it began with."""
    import numpy as np
    import torch

    from textrl_agents.algorithms.cell_setup import initial_policy, trained_weights, training_env
    from textrl_agents.training.divergence import GradientGuard
    from textrl_agents.training.learning_rate import learning_schedule

    settings = as_settings(cell.algorithm, cell.settings, ExpertIterationSettings)
    env = training_env(cell)
    policy = initial_policy(env)
    schedule = learning_schedule(settings.learning_rate, trained_weights(policy))
    optimizer = torch.optim.Adam(trained_weights(policy), lr=schedule.peak, eps=1e-5)
    GradientGuard(optimizer)
    torch.manual_seed(cell.seed)
    generator = np.random.default_rng(cell.seed)
    tokens = 0
    rounds = sampled_in_parts(policy, env, generator, n=settings.n, budget=cell.budget, parts=settings.rounds)
    for number, tokens, sampled in rounds:
        record(tokens, **means(sampled))
        optimizer.param_groups[0]["lr"] = schedule(1 - number / settings.rounds)
        fine_tune(policy, optimizer, kept(groups(sampled), settings.keep), settings, generator)
    return Trained(policy, tokens=tokens)


def kept(sampled: list[list[Trajectory]], keep: str) -> list[Trajectory]:
    """Choose what is trained on. Groups whose responses have equal scores are left out: nothing in them is better."""
    told_apart = [group for group in sampled if len({response.score for response in group}) > 1]
    if keep == "best":
        return [best(group) for group in told_apart]
    responses = [response for group in told_apart for response in group]
    return sorted(responses, key=lambda response: -response.score)[: len(told_apart)]  # stable: of equal ones the first


def fine_tune(
    policy: CausalLMActorCritic,
    optimizer: torch.optim.Optimizer,
    responses: list[Trajectory],
    settings: ExpertIterationSettings,
    generator: np.random.Generator,
) -> None:
    """Cross-entropy of the responses' tokens, each weighing the same, over minibatches in a new order every epoch."""
    import torch

    from textrl_env.models import pack

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for _ in range(settings.epochs):
        order = generator.permutation(len(responses))
        for start in range(0, len(order), settings.batch_size):
            batch = [responses[place] for place in order[start : start + settings.batch_size]]
            loss = -policy.evaluate(pack(batch, policy.device)).log_probs.mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
            optimizer.step()


ALGORITHM = Algorithm(
    "expert_iteration",
    train,
    "fine-tuning on the best of n samples, again",
    # Nothing holds it near the reference but the number of its rounds.
    settings={"rounds": 8, "n": 4, "epochs": 2, "learning_rate": HALF},
    task_settings={"sentiment": {"learning_rate": FULL}, "exact": {"rounds": 2, "learning_rate": FULL}},
    arguments=ExpertIterationSettings,
)
