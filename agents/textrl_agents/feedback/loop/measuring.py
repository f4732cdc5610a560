"""What a round came to: the policy it started from and the one it made, on the same held-out prompts."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textrl_agents.evaluation import evaluate
from textrl_agents.evaluation.evaluation import Statistic, paired_difference
from textrl_agents.feedback.loop.settings import LoopSettings
from textrl_agents.reward_models.report import REPORT_FILE
from textrl_agents.runs.atomic import write_atomically
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks.registry import get_task
from textrl_env.text.prompt_rows import prompt_text

PROXY, GOLD, KL = "score", "gold_score", "kl"


@dataclass(frozen=True)
class RoundResult:
    """Means with their 95% intervals; the proxy is the reward model of this round.

    start, end: measure -> value of the policy that the loop began with, and of this round's: "score" (the proxy),
        "gold_score" where the task has one, "kl" from the start in nats a response, "length".
    gain: measure -> end - start, prompt by prompt.
    accuracy: the share of held-out votes that the reward model predicts, with its interval; None where there are none.
    samples: prompt, and either policy's response.
    """

    number: int
    split: str
    start: dict[str, Statistic]
    end: dict[str, Statistic]
    gain: dict[str, Statistic]
    accuracy: dict[str, float] | None
    samples: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts only."""
        measures = {
            name: {measure: value.to_json() for measure, value in getattr(self, name).items()}
            for name in ("start", "end", "gain")
        }
        return {**dataclasses.asdict(self), **measures, "sqrt_kl": self.distance}

    @property
    def distance(self) -> float:
        """Square root of the KL from the start; 0 where its estimate is negative."""
        return math.sqrt(max(self.end[KL].mean, 0.0))


def measure_round(
    start: CausalLMActorCritic,
    policy: CausalLMActorCritic,
    reward: Path,
    settings: LoopSettings,
    model: str,
    number: int,
    out: Path,
) -> None:
    """Sample both policies on the same held-out prompts, and write what comes of it."""
    task = dataclasses.replace(get_task(settings.task), reward=str(reward), model=model)
    before, after = (evaluate(one, task, episodes=settings.episodes, seed=settings.seed) for one in (start, policy))
    gain = paired_difference(before, after)
    samples = [
        {"prompt": prompt_text(first.prompt), "start": first.response, "end": second.response}
        for first, second in list(zip(before.episodes, after.episodes, strict=True))[: settings.samples]
    ]
    value = {
        "number": number,
        "split": after.prompts,
        "start": _plain(before.statistics),
        "end": _plain(after.statistics),
        "gain": _plain(gain),
        "accuracy": json.loads((reward / REPORT_FILE).read_text(encoding="utf-8"))["heldout"]["accuracy"],
        "samples": samples,
    }
    write_atomically(out, json.dumps(value, indent=1) + "\n")


def read_round(path: Path) -> RoundResult:
    """What `measure_round` wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("start", "end", "gain"):
        value[name] = {measure: Statistic(*numbers) for measure, numbers in value[name].items()}
    return RoundResult(**value)


def _plain(statistics: dict[str, Statistic]) -> dict[str, list[float]]:
    return {name: list(statistic) for name, statistic in statistics.items()}
