"""Random search: schedules at random, and the best of them. What an agent must beat to be worth its trouble."""

from __future__ import annotations

import numpy as np

from textrl_agents.finetune.learning_curve import Act, LearningCurve, Played, play
from textrl_env.finetune import FineTuneEnv


def random_search(env: FineTuneEnv, segments: int, *, seed: int = 0, curve: LearningCurve | None = None) -> Played:
    """Play schedules of uniformly random actions for `segments` segments of training; return the best.

    It needs an environment in which the same schedule gives the same gain.
    """
    rng = np.random.default_rng(seed)
    best: Played | None = None
    done = 0
    while done < segments:
        played = play(env, lambda observation: int(rng.integers(len(env.changes))))
        done += len(played.actions)
        if best is None or played.gain > best.gain:
            best = played
        if curve is not None:
            curve.note(done, _replaying(best))
    assert best is not None
    if curve is not None:
        curve.end(done, _replaying(best))
    return best


def _replaying(played: Played) -> Act:
    actions = iter(played.actions)
    return lambda observation: next(actions)
