"""A training run that was enumerated, replayed from its tree: the same numbers, and no training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.finetune.env import FineTuneEnv
from textrl_env.finetune.schedule_tree import ScheduleTree, enumerated_names, tree_path
from textrl_env.finetune.training_run import LEARNING_RATE, Measurement, Settings
from textrl_env.foreign_text import shown


class Place(NamedTuple):
    """A node of a tree. tree: the tree's settings. at: depth and node. rate: of the segment that led there."""

    tree: Mapping[str, Any]
    at: tuple[int, int]
    rate: float


class ReplayRun:
    """Looks each segment up. The environment around it is the real one, so what an agent sees and is paid is what it
    would see and be paid if the model were trained, bit for bit.
    """

    def __init__(self, tree: ScheduleTree):
        self.tree = tree
        said = tree.settings
        self.settings = Settings({LEARNING_RATE: said["learning_rate"]}, said["optimizer"], said["batch_size"])
        self.optimizers = (self.settings.optimizer,)
        self._at = (0, 0)  # depth and node
        self._rate = said["learning_rate"]

    def begin(self, order_seed: int) -> Measurement:
        """Go back to the root. Raises ConfigError for a run that was not enumerated."""
        if order_seed != self.tree.settings["order_seed"]:
            raise ConfigError(
                f"these schedules were played with order_seed={self.tree.settings['order_seed']}, got {order_seed}"
            )
        self._at, self._rate = (0, 0), self.tree.settings["learning_rate"]
        return self.tree.measurement(0, 0)

    def train(self, settings: Settings) -> Measurement:
        """Go down by the multiplier that was chosen."""
        rate = settings.dials[LEARNING_RATE]
        depth, node = self._at
        children = [self._rate * multiplier for multiplier in self.tree.multipliers]
        if rate not in children or depth == self.tree.segments:
            raise ConfigError(f"a learning rate of {rate:g} after {self._rate:g} in segment {depth} is not in the tree")
        self._at, self._rate = (depth + 1, len(children) * node + children.index(rate)), rate
        return self.tree.measurement(*self._at)

    def snapshot(self) -> Place:
        """Where it is in the tree."""
        return Place(self.tree.settings, self._at, self._rate)

    def restore(self, snapshot: Place) -> None:
        """Go there. Raises ModelError, and stays where it is, for a place in another tree."""
        if not isinstance(snapshot, Place) or snapshot.tree != self.tree.settings:
            raise ModelError(f"this is no place in the tree of {self.tree.settings.get('data')}: {shown(snapshot)}")
        self._at, self._rate = snapshot.at, snapshot.rate


def enumerated_env(data: str | ScheduleTree, **arguments: Any) -> FineTuneEnv:
    """Make the environment of a data set whose schedules are all known, which trains nothing.

    data: one of `enumerated_names()`, or a tree. arguments: others of FineTuneEnv. Raises UnknownName, and AssetError
    where the file is broken.
    """
    if isinstance(data, str):
        if data not in enumerated_names():
            raise UnknownName("data set with enumerated schedules", data, enumerated_names())
        data = ScheduleTree.load(tree_path(data))
    return FineTuneEnv(
        run=ReplayRun(data),
        segments=data.segments,
        multipliers=data.multipliers,
        order_seed=data.settings["order_seed"],
        **arguments,
    )
