"""Every schedule of a small fine-tuning environment, played once: its optimum is then known.

With 5 segments and 5 multipliers there are 3,125 schedules. They share their beginnings, so the tree of them has 3,905
segments, and each is trained once, from a snapshot of the one before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from textrl_env.errors import AssetError, ConfigError
from textrl_env.finetune.changes import Change
from textrl_env.finetune.env import FineTuneEnv
from textrl_env.finetune.training_run import LEARNING_RATE, Measurement

FOLDER = Path(__file__).parent / "enumerated"
COLUMNS = Measurement._fields
MAKE = "python -m textrl_env.finetune.enumerate"


class Schedule(NamedTuple):
    """A way through the tree. actions: one a segment. gain: the sum of its rewards."""

    actions: tuple[int, ...]
    gain: float


@dataclass(frozen=True)
class ScheduleTree:
    """What was measured in each node.

    levels: one array [n ** depth, columns] a depth, float64, with the columns of `Measurement`; the children of node i
        are n * i to n * i + n - 1, in the order of the multipliers. NaN below a run that diverged.
    multipliers: of the learning rate. settings: what the environment was made with, and hashes of model and data.
    made_with: versions and the machine, for people.
    baselines: name of a schedule -> (peaks, gains): the same run at fixed rates.
    """

    levels: Sequence[np.ndarray]
    multipliers: tuple[float, ...]
    settings: Mapping[str, Any]
    made_with: Mapping[str, Any]
    baselines: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def segments(self) -> int:
        return len(self.levels) - 1

    def measurement(self, depth: int, node: int) -> Measurement:
        """Return what was measured there. Raises ConfigError below a run that has diverged."""
        row = self.levels[depth][node]
        if np.isnan(row[0]):
            raise ConfigError("the run had diverged before this segment: there is nothing below it")
        score, train_loss, validation_loss, gradient_norm, diverged = map(float, row)
        return Measurement(score, train_loss, validation_loss, gradient_norm, bool(diverged))

    def gain(self, actions: Sequence[int]) -> float:
        """The rise of the score over a schedule; a run that diverges ends there."""
        now = first = self.measurement(0, 0)
        node = 0
        for depth, action in enumerate(actions, start=1):
            node = node * len(self.multipliers) + action
            now = self.measurement(depth, node)
            if now.diverged:
                break
        return now.score - first.score

    def gains(self) -> np.ndarray:
        """float64 [n] * segments: the gain of every schedule."""
        n = len(self.multipliers)
        scores = self.levels[0][:, 0]
        for level in self.levels[1:]:
            before = np.repeat(scores, n)
            scores = np.where(np.isnan(level[:, 0]), before, level[:, 0])  # nothing is done below a divergence
        gained: np.ndarray = (scores - self.levels[0][0, 0]).reshape((n,) * self.segments)
        return gained

    def best(self) -> Schedule:
        """The schedule with the highest gain; the first of equal ones."""
        gains = self.gains()
        place = np.unravel_index(int(gains.argmax()), gains.shape)
        return Schedule(tuple(map(int, place)), float(gains.max()))

    def best_baseline(self, name: str) -> tuple[float, float]:
        """(peak, gain) of the best peak of "constant", "cosine" or "linear"."""
        peaks, gains = self.baselines[name]
        place = int(gains.argmax())
        return float(peaks[place]), float(gains[place])

    def rates(self, actions: Sequence[int]) -> list[float]:
        """The learning rate of each segment."""
        rate, rates = float(self.settings["learning_rate"]), []
        for action in actions:
            rate *= self.multipliers[action]
            rates.append(rate)
        return rates

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        arrays = {f"level_{depth}": level for depth, level in enumerate(self.levels)}
        for name, (peaks, gains) in self.baselines.items():
            arrays[f"baseline_{name}"] = np.stack([peaks, gains])
        said = {
            "multipliers": json.dumps(self.multipliers),
            "settings": json.dumps(dict(self.settings), sort_keys=True),
            "made_with": json.dumps(dict(self.made_with), sort_keys=True),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.writing")
        try:
            save_file(arrays, fresh, metadata=said)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> ScheduleTree:
        """Read what `save` wrote. Raises AssetError where the file is missing or broken."""
        try:
            with safe_open(path, framework="np") as file:
                said = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            depths = sum(name.startswith("level_") for name in arrays)
            tree = cls(
                [arrays[f"level_{depth}"] for depth in range(depths)],
                tuple(json.loads(said["multipliers"])),
                json.loads(said["settings"]),
                json.loads(said["made_with"]),
                {
                    name.removeprefix("baseline_"): (array[0], array[1])
                    for name, array in arrays.items()
                    if name.startswith("baseline_")
                },
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise AssetError(f"the schedules in {path} cannot be read ({error}). Make them again: {MAKE}") from error
        shapes = [level.shape for level in tree.levels]
        if shapes != [(len(tree.multipliers) ** depth, len(COLUMNS)) for depth in range(depths)] or depths < 2:
            raise AssetError(f"the schedules in {path} are no tree: levels of {shapes}. Make them again: {MAKE}")
        return tree


def enumerate_schedules(
    env: FineTuneEnv, told: Callable[[int, int], None] = lambda done, total: None
) -> list[np.ndarray]:
    """Play every schedule of an environment by its own steps; return the levels of a ScheduleTree.

    told: gets the segments that are done, and all of them. Raises ConfigError where `order_seed` is None, or there is
    more to choose than a learning rate.
    """
    n = len(env.changes)
    if env.order_seed is None:
        raise ConfigError("an environment whose data come in a new order each time has no tree: give an order_seed")
    rates_alone = [Change({LEARNING_RATE: change.factors.get(LEARNING_RATE, 1.0)}) for change in env.changes]
    if list(env.changes) != rates_alone:
        raise ConfigError("a tree has learning rates alone: leave optimizers, batch_factors, stop and other dials out")
    levels = [np.full((n**depth, len(COLUMNS)), np.nan) for depth in range(env.segments + 1)]
    total, done = sum(map(len, levels[1:])), 0

    def walk(depth: int, node: int, info: Mapping[str, Any]) -> None:
        nonlocal done
        levels[depth][node] = [info[column] for column in COLUMNS]
        if "finish_reason" in info:
            if left_out := sum(n**below for below in range(1, env.segments - depth + 1)):  # by a divergence
                done += left_out
                told(done, total)
            return
        here = env.snapshot()
        for action in range(n):
            if action:
                env.restore(here)
            *_, info = env.step(action)
            done += 1
            told(done, total)
            walk(depth + 1, n * node + action, info)

    walk(0, 0, env.reset()[1])
    return levels


def tree_path(data: str) -> Path:
    """Where the tree of a data set lies."""
    return FOLDER / f"{data}.safetensors"


def enumerated_names() -> list[str]:
    """The data sets whose schedules are all known."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))
