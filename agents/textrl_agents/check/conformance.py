"""Checks that users run on a policy or an algorithm of their own, before they spend hours on its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Trained
from textrl_agents.algorithms.cell_setup import judging_env
from textrl_agents.evaluation import Evaluation
from textrl_agents.policy import Policy
from textrl_agents.rollout import collect
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of
from textrl_env.models import pack

TOLERANCE = 1e-4  # nats, of a log-probability
OVERSHOOT = 1.5  # how far past its budget an algorithm may go: batches are whole
EPISODES = 32


@torch.no_grad()
def check_policy(policy: Policy, env: TextGenVectorEnv, *, tolerance: float = TOLERANCE) -> None:
    """Sample a response in each row of `env`, and compare what the policy's methods say of it.

    Raises ConfigError that names the method where `step` samples from one distribution and `states` or `evaluate` give
    another, or where an id is drawn that the tokenizer does not know.
    """
    sampled = collect(policy, env, episodes=env.num_envs, seed=0, deterministic=False)
    packed = pack(sampled, policy.device)
    drawn = torch.from_numpy(np.concatenate([episode.log_probs for episode in sampled]))
    known = torch.from_numpy(env.rules.vocabulary.known)[packed.actions.cpu()]
    if not known.all():
        unknown = int(packed.actions.cpu()[~known][0])
        raise ConfigError(f"step drew {unknown}, an id that the tokenizer does not know: its logit must be -inf")
    logits = policy.states(packed).logits
    said = {
        "evaluate": policy.evaluate(packed).log_probs,
        "states": logits.log_softmax(dim=-1).gather(-1, packed.actions[:, None]).squeeze(-1),
    }
    for name, log_probs in said.items():
        worst = float((log_probs.double().cpu() - drawn).abs().max())
        if not worst <= tolerance:
            raise ConfigError(
                f"{name} differs from step by {worst:.2g} nats in the log-probability of a sampled token: all methods "
                "must mean the distribution that is sampled, after temperature and cuts, at the same state"
            )


def check_algorithm(
    algorithm: Algorithm,
    task: str = "exact",
    *,
    budget: int = 4096,
    settings: Mapping[str, Any] | None = None,
    reproducible: bool = True,
) -> Evaluation:
    """Train the algorithm twice as the benchmark will, and say what would go wrong.

    budget: tokens of each training; enough for two of the algorithm's updates. settings: on top of its own.
    reproducible: whether two runs of one seed must give the same policy (asynchronous algorithms cannot).

    Returns the evaluation of the first run. Raises ConfigError that names what is wrong: the result is no `Trained`;
    its tokens are not counted or go beyond the budget; a recorded point is not finite or goes back; the policy cannot
    be evaluated; the reference was changed; the seed does not decide.
    """
    cell = Cell(
        algorithm.name,
        task,
        seed=0,
        budget=budget,
        settings={**algorithm.settings_for(task), **(settings or {})},
        eval_episodes=EPISODES,
        device="cpu",
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = _run(algorithm, cell)
        if reproducible and first != _run(algorithm, cell):
            what = "two runs of one seed end in different policies: draw every random number from it"
            raise _wrong(algorithm, what)
        return first
    finally:
        torch.set_num_threads(threads)


def _run(algorithm: Algorithm, cell: Cell) -> Evaluation:
    record = _CheckedRecord(algorithm)
    env = judging_env(cell)  # before training, so that its reference is what the task's was
    torch.manual_seed(cell.seed)
    trained = algorithm.run(cell, record)
    if not isinstance(trained, Trained):
        raise _wrong(algorithm, f"train must return a Trained, got {type(trained).__name__}")
    try:
        if isinstance(trained.tokens, bool) or not isinstance(trained.tokens, int) or trained.tokens < 0:
            raise _wrong(algorithm, f"Trained.tokens must count the tokens generated, got {trained.tokens!r}")
        if trained.tokens > OVERSHOOT * cell.budget:
            raise _wrong(algorithm, f"it generated {trained.tokens} tokens with a budget of {cell.budget}")
        if record.tokens > trained.tokens:
            raise _wrong(
                algorithm, f"it recorded a point at {record.tokens} tokens and says it generated {trained.tokens}"
            )
        try:
            evaluation = trained.evaluate(env, cell.eval_episodes, cell.seed)
        except Exception as error:
            raise _wrong(
                algorithm, f"its policy cannot be evaluated: {type(error).__name__}: {message_of(error)}"
            ) from error
        _check_reference(algorithm, cell, env)
        return evaluation
    finally:
        trained.close()


def _check_reference(algorithm: Algorithm, cell: Cell, used: TextGenVectorEnv) -> None:
    """Compare the reference of an environment built before training with that of one built now: both are the task's."""
    references = [env.kl_penalty.require_reference() for env in (used, judging_env(cell))]
    before, after = (reference.lm.model.state_dict() for reference in references)
    changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    if changed:
        raise _wrong(algorithm, f"it changed the reference's weights: {', '.join(changed[:3])}")


class _CheckedRecord:
    """Takes the points of a learning curve, and says what is wrong with one."""

    def __init__(self, algorithm: Algorithm):
        self.algorithm, self.tokens = algorithm, 0

    def __call__(self, tokens: int, *, score: float, kl: float | None, length: float) -> None:
        values = {"score": score, "kl": 0.0 if kl is None else kl, "length": length}
        broken = {name: value for name, value in values.items() if not math.isfinite(value)}
        if broken:
            raise _wrong(self.algorithm, f"it recorded {broken} at {tokens} tokens: record finite means only")
        if tokens < self.tokens:
            raise _wrong(self.algorithm, f"it recorded {tokens} tokens after {self.tokens}: they only grow")
        self.tokens = int(tokens)


def _wrong(algorithm: Algorithm, what: str) -> ConfigError:
    return ConfigError(f"algorithm {algorithm.name!r}: {what}")
