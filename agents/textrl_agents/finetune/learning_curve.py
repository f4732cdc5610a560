"""What an agent has learned after so many segments: the schedule that it plays without exploring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from textrl_env.finetune import FineTuneEnv

Act = Callable[[np.ndarray], int]


class Played(NamedTuple):
    """An episode. gain: the sum of its rewards."""

    actions: tuple[int, ...]
    gain: float


class CurvePoint(NamedTuple):
    """segments: that the agent has trained so far."""

    segments: int
    played: Played


def play(env: FineTuneEnv, act: Act, seed: int | None = None) -> Played:
    """Play an episode by `act`, an observation's action."""
    observation, _ = env.reset(seed=seed)
    actions, gain, ended = list[int](), 0.0, False
    while not ended:
        actions.append(int(act(observation)))
        observation, reward, ended, _, _ = env.step(actions[-1])
        gain += reward
    return Played(tuple(actions), gain)


class LearningCurve:
    """Plays an agent's schedule as it trains and when it has ended, in an environment of its own.

    env: apart from the one that is learned in, since a play begins an episode. every: segments from one look to the
        next; looks are at the first ends of episodes at or behind multiples of it, so that those of all seeds are at
        about the same places.
    """

    def __init__(self, env: FineTuneEnv, every: int):
        self.env, self.every = env, every
        self.points: list[CurvePoint] = []

    def note(self, segments: int, act: Act) -> None:
        """Play where that is due: a multiple of `every` has been reached since the last time."""
        if segments // self.every > (self.points[-1].segments if self.points else 0) // self.every:
            self.points.append(CurvePoint(segments, play(self.env, act)))

    def end(self, segments: int, act: Act) -> None:
        """Play what was learned at last; it stands in place of a look before the last update."""
        if self.points and self.points[-1].segments == segments:
            self.points.pop()
        self.points.append(CurvePoint(segments, play(self.env, act)))

    def as_json(self) -> list[dict[str, Any]]:
        """Numbers and lists only."""
        return [{"segments": at, "actions": list(played.actions), "gain": played.gain} for at, played in self.points]
