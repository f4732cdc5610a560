"""The benchmark's algorithms by name: the built-in ones, those of installed packages, and those registered here.

A package adds its own through the entry point group `textrl.algorithms`, whose entries are `Algorithm` objects.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textrl_agents.algorithms.cell import Cell, Record, Trained, TrainFunction
from textrl_agents.runs.config import read_settings
from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.plugins import broken_plugin, load_plugin, plugins

GROUP = "textrl.algorithms"
SETTINGS_FILE = Path(__file__).parent / "settings.yaml"


@dataclass(frozen=True)
class Algorithm:
    """An algorithm of the benchmark.

    train: see TrainFunction; a text "module:function" is imported when it is first called.
    settings: its arguments where a run gives no others; for a built-in one settings.yaml holds them.
    tasks: the only ones it can be run on; empty for any.
    requires: module -> the extra of this package that brings it.
    """

    name: str
    train: TrainFunction | str
    description: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    requires: Mapping[str, str] = field(default_factory=dict)

    def fits(self, task: str) -> bool:
        """Whether it can be run on `task`."""
        return not self.tasks or task in self.tasks

    def settings_for(self, task: str) -> dict[str, Any]:
        """Its tuned settings on `task`."""
        tuned = _tuned().get(self.name, {})
        by_task = tuned.get("tasks", {}).get(task, {})
        return {**self.settings, **{key: value for key, value in tuned.items() if key != "tasks"}, **by_task}

    def run(self, cell: Cell, record: Record) -> Trained:
        """Train. Raises MissingExtra where its library is not installed, ConfigError on a task it does not fit."""
        if not self.fits(cell.task):
            raise ConfigError(f"{self.name} runs on {', '.join(self.tasks)} alone, not on {cell.task!r}")
        for module, extra in self.requires.items():
            if importlib.util.find_spec(module) is None:
                raise MissingExtra(extra, module)
        train = self.train
        if isinstance(train, str):
            place, _, name = train.partition(":")
            train = getattr(importlib.import_module(place), name)
        return train(cell, record)  # type: ignore[operator]


_HERE = "textrl_agents.algorithms"
_SB3 = {"stable_baselines3": "sb3"}
_CONTRIB = {**_SB3, "sb3_contrib": "sb3"}
_RLLIB = {"ray": "rllib"}
_TRL = {"trl": "trl"}
_BUILT_IN = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("reference", f"{_HERE}.reference:train", "the model as it is: the zero point"),
        Algorithm("ppo", f"{_HERE}.sb3:train", "stock SB3 PPO", requires=_SB3),
        Algorithm("a2c", f"{_HERE}.sb3:train", "stock SB3 A2C", requires=_SB3),
        Algorithm(
            "trpo", f"{_HERE}.sb3:train", "sb3-contrib TRPO, its gradients in one backward pass", requires=_CONTRIB
        ),
        Algorithm("nlpo", f"{_HERE}.sb3:train", "PPO within the top-p tokens of a lagged policy", requires=_SB3),
        Algorithm("reinforce", f"{_HERE}.sb3:train", "REINFORCE with a baseline", requires=_SB3),
        Algorithm("rloo", f"{_HERE}.sb3:train", "REINFORCE leave-one-out", requires=_SB3),
        Algorithm("grpo", f"{_HERE}.sb3:train", "group relative policy optimisation", requires=_SB3),
        Algorithm("dqn", f"{_HERE}.sb3:train", "stock SB3 DQN", requires=_SB3),
        Algorithm("qrdqn", f"{_HERE}.sb3:train", "stock sb3-contrib QR-DQN", requires=_CONTRIB),
        Algorithm("soft_dqn", f"{_HERE}.sb3:train", "stock SB3 DQN with a soft backup, sampled", requires=_SB3),
        Algorithm("q_learning", f"{_HERE}.sb3:train", "tabular soft Q-learning", tasks=("exact",), requires=_SB3),
        Algorithm("sarsa", f"{_HERE}.sb3:train", "tabular soft SARSA", tasks=("exact",), requires=_SB3),
        Algorithm("rllib_ppo", f"{_HERE}.rllib:train", "stock RLlib PPO", requires=_RLLIB),
        Algorithm("rllib_appo", f"{_HERE}.rllib:train", "stock RLlib APPO", requires=_RLLIB),
        Algorithm("rllib_impala", f"{_HERE}.rllib:train", "stock RLlib IMPALA", requires=_RLLIB),
        Algorithm("best_of_n", f"{_HERE}.best_of_n:train", "the best of n samples by the reward; no training"),
        Algorithm("expert_iteration", f"{_HERE}.expert_iteration:train", "fine-tuning on the best of n samples, again"),
        Algorithm("trl_dpo", f"{_HERE}.trl:train", "TRL's DPO on pairs of the reference's samples", requires=_TRL),
        Algorithm("trl_orpo", f"{_HERE}.trl:train", "TRL's ORPO on the same pairs", requires=_TRL),
        Algorithm("trl_rloo", f"{_HERE}.trl:train", "TRL's RLOO", requires=_TRL),
        Algorithm("trl_grpo", f"{_HERE}.trl:train", "TRL's GRPO", requires=_TRL),
    )
}
_REGISTERED: dict[str, Algorithm] = {}


def register_algorithm(algorithm: Algorithm) -> None:
    """Make an algorithm available by its name. Raises ConfigError where the name is taken."""
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"register_algorithm takes an Algorithm, got {algorithm!r}")
    if algorithm.name in _BUILT_IN or algorithm.name in _REGISTERED:
        raise ConfigError(f"algorithm {algorithm.name!r} is registered already; choose another name")
    _REGISTERED[algorithm.name] = algorithm


def algorithm_names() -> list[str]:
    """Names of all algorithms: the built-in ones in their own order, then the others, sorted."""
    return [*_BUILT_IN, *sorted({*plugins(GROUP), *_REGISTERED} - set(_BUILT_IN))]


def get_algorithm(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises UnknownName with the nearest name, and a ConfigError that names a broken entry point.
    """
    if not isinstance(name, str):
        raise UnknownName("algorithm", name, algorithm_names())
    for known in (_BUILT_IN, _REGISTERED):
        if name in known:
            return known[name]
    if name not in plugins(GROUP):
        raise UnknownName("algorithm", name, algorithm_names())
    algorithm = load_plugin(GROUP, name)
    if not isinstance(algorithm, Algorithm):
        raise broken_plugin(GROUP, name, f"gives {type(algorithm).__name__}, expected an Algorithm")
    return algorithm


@functools.cache
def _tuned() -> dict[str, dict[str, Any]]:
    return read_settings(SETTINGS_FILE) if SETTINGS_FILE.is_file() else {}
