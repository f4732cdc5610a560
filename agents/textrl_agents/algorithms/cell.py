"""One cell of the benchmark: an algorithm on a task with a seed and a budget; and what training it gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from textrl_env.user_values import check_names

if TYPE_CHECKING:  # names and plans are read without waiting for torch
    from textrl_agents.evaluation import Evaluation
    from textrl_agents.policy import Policy
    from textrl_env import TextGenVectorEnv
    from textrl_env.models import CausalLMActorCritic

# Takes (environment, episodes, seed), as `textrl_agents.evaluation.evaluate` does.
EvaluateFunction = Callable[["TextGenVectorEnv", int, int], "Evaluation"]
S = TypeVar("S")


@dataclass(frozen=True)
class Cell:
    """What is to be run. Plain data, so that it travels to other processes and machines.

    budget: tokens that may be generated in training, all of them: samples, candidates and pairs alike.
    settings: the algorithm's arguments, its tuned defaults included. env: the environment's arguments besides the task
        (`model`, `reward`, `kl_coef`, `max_new_tokens`, ...). split: the prompts that judge it: "heldout" to report,
        "validation" to choose settings by; the training prompts where the task has no such.
    """

    algorithm: str
    task: str
    seed: int
    budget: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, Any] = field(default_factory=dict)
    eval_episodes: int = 256
    device: str = "auto"
    split: str = "heldout"

    @property
    def key(self) -> str:
        """The same for two cells that are the same experiment; another device does not make another experiment."""
        return self._hash(self.seed)

    @property
    def configuration(self) -> str:
        """The same for two cells that differ in their seed alone, or in their device."""
        return self._hash(None)

    def _hash(self, seed: int | None) -> str:
        parts = [self.algorithm, self.task, seed, self.budget, dict(self.settings), dict(self.env)]
        parts += [self.eval_episodes, *([] if self.split == "heldout" else [self.split])]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def env_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the environment that is trained in, its task included."""
        return {"task": self.task, "device": self.device, "split": "train", **self.env}


class Record(Protocol):
    """Takes a point of the learning curve: means over the episodes since the last one."""

    def __call__(self, tokens: int, *, score: float, kl: float | None, length: float) -> None:
        """tokens: generated so far. kl: nats a response, from the reference; None where the algorithm does not know.

        length: tokens a response.
        """


@dataclass
class Trained:
    """What an algorithm's training gave.

    tokens: generated in training. deterministic: whether the policy acts greedily.
    evaluation: how fresh samples are taken and judged, as `textrl_agents.evaluation.evaluate` does it; only what is not
        a policy over tokens (best-of-n) needs another.
    close: called when the cell is done.
    """

    policy: Policy
    tokens: int
    deterministic: bool = False
    evaluation: EvaluateFunction | None = None
    close: Callable[[], None] = lambda: None

    def evaluate(self, env: TextGenVectorEnv, episodes: int, seed: int) -> Evaluation:
        """Fresh samples in `env`, which is in SAME_STEP and deferred mode."""
        if self.evaluation is not None:
            return self.evaluation(env, episodes, seed)
        from textrl_agents.evaluation import evaluate

        return evaluate(self.policy, env=env, episodes=episodes, seed=seed, deterministic=self.deterministic)


class TrainFunction(Protocol):
    """An algorithm, as the benchmark calls it.

    It trains on `cell.task` with `cell.seed` until `cell.budget` tokens were generated, and calls `record` on the way.
    """

    def __call__(self, cell: Cell, record: Record) -> Trained: ...


class AnswerFunction(Protocol):
    """How an algorithm's policy answers prompts, and how such answers are evaluated.

    Takes the policy and the algorithm's settings; returns what `Trained.evaluation` is.
    """

    def __call__(self, policy: CausalLMActorCritic, settings: Mapping[str, Any]) -> EvaluateFunction: ...


def as_settings(algorithm: str, settings: Mapping[str, Any], kind: type[S]) -> S:
    """The settings as the dataclass `kind`. Raises UnknownName for one that it does not have."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a TypeVar cannot say "a dataclass"
    check_names(f"setting of {algorithm}", settings, known)
    return kind(**settings)
