"""What a benchmark runs: from names, presets and overrides to cells, and the `benchmark.yaml` that keeps them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.registry import algorithm_names, get_algorithm
from textrl_agents.training.settings_file import parse_assignments, read_settings
from textrl_env.arguments import ENV_ARGUMENTS
from textrl_env.errors import ConfigError
from textrl_env.plugins import load_plugin_files, plugin_files
from textrl_env.rewards.make import check_reward_name
from textrl_env.tasks import get_task
from textrl_env.user_values import (
    check_device_name,
    check_dtype_name,
    check_names,
    check_precision_name,
    check_whole,
)

JUDGING = ("heldout", "validation")  # prompts that a benchmark may be judged by
PLAN = "benchmark.yaml"  # in a benchmark's folder
# Arguments of the environment that a cell, the algorithm's adapter or the evaluation decides.
_DECIDED = {"task": "--tasks", "device": "--device", "split": "--split", "kl_mode": None, "with_reference": None}


@dataclass(frozen=True)
class Preset:
    """A benchmark by name. algos: empty for all that are known. budgets: tokens of a cell on tasks that differ."""

    description: str
    tasks: Sequence[str]
    seeds: int
    eval_episodes: int
    budget: int = 49_152
    budgets: Mapping[str, int] = field(default_factory=dict)
    algos: Sequence[str] = ()

    def budget_for(self, task: str) -> int:
        """Return the tokens that a cell on the task may generate in training."""
        return self.budgets.get(task, self.budget)


PRESETS = {
    "quick": Preset(
        "a first look at two tasks, in minutes; too few seeds for intervals",
        tasks=("exact", "sentiment"),
        seeds=1,
        eval_episodes=128,
        budgets={"exact": 131_072},
        algos=("reference", "ppo", "reinforce", "rloo", "grpo", "q_learning", "best_of_n", "expert_iteration"),
    ),
    "default": Preset(
        "every algorithm on seven tasks with five seeds; hours on a small machine",
        tasks=("exact", "exact_turns", "sentiment", "summarize", "translate", "detoxify", "calculator"),
        seeds=5,
        eval_episodes=256,
        budgets={"exact": 262_144, "exact_turns": 262_144, "calculator": 98_304},
    ),
    "turns": Preset(
        "a critic against baselines from groups on two tasks of several turns, at equal tokens; half an hour of a core",
        tasks=("exact_turns", "guess"),
        seeds=5,
        eval_episodes=256,
        budget=12_288,
        budgets={"exact_turns": 131_072},
        algos=("reference", "ppo", "rloo", "grpo"),
    ),
}


@dataclass(frozen=True)
class Pairing:
    """An algorithm on a task: the cells that differ in their seed alone."""

    algorithm: str
    task: str
    budget: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All cells of a benchmark, with every default filled in, so that later versions of the package run the same ones.

    split: the prompts that judge the cells. plugins: files that each process imports before it runs a cell.
    notes: what was left out, and why.
    """

    pairings: tuple[Pairing, ...]
    seeds: int
    env: Mapping[str, Any] = field(default_factory=dict)
    eval_episodes: int = 256
    device: str = "auto"
    split: str = "heldout"
    plugins: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds, 1)
        check_whole("eval_episodes", self.eval_episodes, 2)
        check_names("split to judge by", [self.split], JUDGING)
        for pairing in self.pairings:
            check_whole("budget", pairing.budget, 1)

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed: a benchmark that is stopped early has then compared every algorithm."""
        env, judging = dict(self.env), (self.eval_episodes, self.device, self.split)
        return [
            Cell(each.algorithm, each.task, seed, each.budget, dict(each.settings), env, *judging)
            for seed in range(self.seeds)
            for each in self.pairings
        ]

    @classmethod
    def of(
        cls,
        *,
        algos: Sequence[str] | None = None,
        tasks: Sequence[str] | None = None,
        seeds: int | None = None,
        budget: int | None = None,
        preset: str | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, Any] | None = None,
        eval_episodes: int | None = None,
        device: str = "auto",
        split: str = "heldout",
        plugins: Sequence[str | Path] = (),
    ) -> Plan:
        """Plan every algorithm on every task that it fits. What is None comes from the preset, "default" without one.

        seeds: how many; they are 0, 1, ... budget: tokens that a cell generates in training. settings: arguments by
        algorithm, on top of its tuned ones. env: arguments of the environment. split: "validation" to choose settings
        by the results; the held-out prompts are then left for what is reported of the chosen ones.

        Raises UnknownName, MissingExtra for an algorithm of `algos` whose library is not installed (a preset leaves
        such ones out), ConfigError where nothing is left to run.
        """
        if preset is None and (not algos or not tasks):
            raise ConfigError("name what to run: algorithms and tasks (--algos ppo,a2c --tasks exact), or a --preset")
        check_device_name(device)
        files = plugin_files(plugins)
        load_plugin_files(files)
        check_names("preset", [preset or "default"], PRESETS)
        base = PRESETS[preset or "default"]
        notes: list[str] = []
        chosen = _algorithms(algos, base, notes)
        names = list(dict.fromkeys(tasks if tasks else base.tasks))
        for name in names:
            get_task(name)
        _check_settings(settings or {}, [algorithm.name for algorithm in chosen])
        pairings = [
            _pairing(algorithm, task, base.budget_for(task) if budget is None else budget, settings or {})
            for task in names
            for algorithm in chosen
            if algorithm.fits(task)
        ]
        notes += _unfit(chosen, names)
        if not pairings:
            raise ConfigError(f"there is nothing to run: {'; '.join(notes)}")
        _check_env(env or {})
        return cls(
            pairings=tuple(pairings),
            seeds=base.seeds if seeds is None else seeds,
            env=_plain(env or {}, "the environment"),
            eval_episodes=base.eval_episodes if eval_episodes is None else eval_episodes,
            device=device,
            split=split,
            plugins=files,
            notes=tuple(notes),
        )

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a `benchmark.yaml`. Raises ConfigError that names the file."""
        stored = read_settings(path)
        try:
            pairings = tuple(Pairing(**entry) for entry in stored.pop("runs"))
            return cls(pairings=pairings, **{**stored, "plugins": tuple(stored.get("plugins", ()))})
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is not the plan of a benchmark: {type(error).__name__}: {error}") from error

    def to_yaml(self) -> str:
        """Return the text that `read` reads."""
        return yaml.safe_dump(_plain(self.to_dict(), "the benchmark"), sort_keys=False, allow_unicode=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as it is stored."""
        return {
            "seeds": self.seeds,
            "eval_episodes": self.eval_episodes,
            "device": self.device,
            "split": self.split,
            "env": dict(self.env),
            "plugins": list(self.plugins),
            "runs": [dataclasses.asdict(pairing) for pairing in self.pairings],
        }


def parse_settings(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse `["ppo.n_steps=32"]` into settings by algorithm. Raises ConfigError."""
    for assignment in assignments:
        name, equals, _ = assignment.partition("=")
        if not equals or "." not in name.strip(". "):
            raise ConfigError(f"--set takes ALGO.NAME=VALUE, such as ppo.n_steps=32; got {assignment!r}")
    return parse_assignments(assignments)


def parse_env(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse `["kl_coef=0.1", "sampling.top_p=0.7"]` into arguments of the environment. Raises ConfigError."""
    return parse_assignments(assignments, "--env", example="kl_coef=0.1")


def _algorithms(names: Sequence[str] | None, preset: Preset, notes: list[str]) -> list[Algorithm]:
    """Look the algorithms up. One whose library is not installed is an error where it was named, else a note."""
    chosen = []
    for name in dict.fromkeys(names or preset.algos or algorithm_names()):
        algorithm = get_algorithm(name)
        if (missing := algorithm.missing()) is None:
            chosen.append(algorithm)
        elif names:
            raise missing
        else:
            notes.append(f"{algorithm.name} is left out: {missing}")
    return chosen


def _pairing(algorithm: Algorithm, task: str, budget: int, given: Mapping[str, Mapping[str, Any]]) -> Pairing:
    settings = {**algorithm.settings_for(task), **given.get(algorithm.name, {})}
    return Pairing(algorithm.name, task, budget, _plain(settings, algorithm.name))


def _unfit(algorithms: Sequence[Algorithm], tasks: Sequence[str]) -> list[str]:
    notes = []
    for algorithm in algorithms:
        if unfit := [task for task in tasks if not algorithm.fits(task)]:
            notes.append(
                f"{algorithm.name} runs on {', '.join(algorithm.tasks)} alone, so it is left out on {', '.join(unfit)}"
            )
    return notes


def _check_settings(settings: Mapping[str, Mapping[str, Any]], algorithms: Sequence[str]) -> None:
    check_names("algorithm of --set", settings, algorithms)
    for name, given in settings.items():
        if not isinstance(given, Mapping):
            raise ConfigError(f"settings of {name} must be a mapping of names to values, got {given!r}")


def _check_env(env: Mapping[str, Any]) -> None:
    check_reward_name(env.get("reward"))
    check_dtype_name(env.get("dtype", "auto"))
    check_precision_name(env.get("precision", "auto"))
    known = [name for name in ENV_ARGUMENTS if name not in _DECIDED]
    for name in env:
        if name in _DECIDED:
            instead = f"use {_DECIDED[name]}" if _DECIDED[name] else "each algorithm and the evaluation need their own"
            raise ConfigError(f"--env cannot decide {name!r}: {instead}")
        check_names("argument of the environment", [name], known)


def _plain(values: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return values as JSON and YAML keep them, so that a plan that is read again has the very same cells."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
        return plain
    except (TypeError, ValueError) as error:
        raise ConfigError(f"arguments of {whose} must be numbers, text, lists and mappings: {error}") from error
