"""One pass of the trunk for all reward models that read it: an ensemble costs little more than one of its members."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from textrl_env.rewards.combined.ensemble import EnsembleReward
from textrl_env.rewards.combined.normalized import NormalizedReward
from textrl_env.rewards.linear.features import Features
from textrl_env.rewards.linear.linear_reward import LinearReward
from textrl_env.rewards.make import make_reward
from textrl_env.rewards.reward_folder import ENSEMBLE, LINEAR, read_reward_file

REMEMBERED = 100_000  # rows, after which all are forgotten


class SharedFeatures:
    """Features that are computed once for each prompt with its response, whoever asks for them."""

    kind: ClassVar[str] = "shared"

    def __init__(self, features: Features):
        self._features, self.size = features, features.size
        self._rows: dict[str, np.ndarray] = {}

    def __call__(self, prompts: list[Any], completions: list[Any]) -> np.ndarray:
        """float32 [n, size]."""
        keys = [repr(pair) for pair in zip(prompts, completions, strict=True)]
        if len(self._rows) > REMEMBERED:
            self._rows.clear()
        new = {key: place for place, key in enumerate(keys) if key not in self._rows}
        if new:
            places = list(new.values())
            rows = self._features([prompts[place] for place in places], [completions[place] for place in places])
            self._rows.update(zip(new, rows, strict=True))
        return np.stack([self._rows[key] for key in keys])

    def save(self, folder: Path) -> dict[str, Any]:
        """Save what is shared."""
        return self._features.save(folder)


def load_proxy(
    folder: Path, shared: SharedFeatures | None = None, *, device: str = "auto", **ways: Any
) -> tuple[Any, SharedFeatures | None]:
    """The reward that `make_reward(folder, **ways)` gives, and the features that it shares; None where it has none.

    shared: features of another reward model, whose trunk is the same. ways: `combine` and `coefficient` of an ensemble.
    Linear models read shared features; a classifier has a trunk of its own.
    """
    file = read_reward_file(folder)
    if file is not None and file.kind == ENSEMBLE:
        members = {}
        for name in file.settings["members"]:
            members[name], shared = load_proxy(folder / name, shared, device=device)
        return EnsembleReward(members, **ways, name=folder.name), shared
    if file is None or file.kind != LINEAR:
        return make_reward(folder, device=device), shared
    loaded = LinearReward.load(folder, device=device)
    shared = SharedFeatures(loaded.features) if shared is None else shared
    reward: Any = LinearReward(shared, loaded.weights, loaded.bias, heads=loaded.heads, name=folder.name)
    return reward if file.normalization is None else NormalizedReward(reward, **file.normalization), shared
