"""Q-learning and SARSA on a table, for environments with few states and a discount of 1.

The tables of `textrl_agents.sb3` are of another kind: entropy-regularised, with the tokens so far as state. These are
Watkins's and Rummery's, with an epsilon-greedy policy: Sutton and Barto 2018, sections 6.4 and 6.5
(http://incompleteideas.net/book/the-book-2nd.html).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from textrl_agents.finetune.discretisation import Discretisation, State
from textrl_agents.finetune.learning_curve import LearningCurve
from textrl_env.finetune import FineTuneEnv
from textrl_env.user_values import check_names, check_number, check_whole

Kind = Literal["q_learning", "sarsa"]
KINDS = ("q_learning", "sarsa")


@dataclass(frozen=True, kw_only=True)
class TabularSettings:
    """How a table learns.

    discretisation: what it tells apart.
    rate: of the nth visit of a pair of state and action, `n ** -rate`: 1 is the mean of all targets, and 0.5 forgets
        the early ones, whose bootstrapped part was wrong.
    exploration: the share of random actions; it falls linearly from the first number to the second over `explored`
        of the training.
    optimism: what an action is taken to be worth before it was tried.
    """

    discretisation: Discretisation = field(default_factory=Discretisation)
    rate: float = 0.6
    exploration: tuple[float, float] = (1.0, 0.02)
    explored: float = 0.8
    optimism: float = 0.0

    def __post_init__(self) -> None:
        check_number("rate", self.rate, 0, 1)
        for share in self.exploration:
            check_number("exploration", share, 0, 1)
        check_number("explored", self.explored, 0, 1, above=True)
        check_number("optimism", self.optimism)


class Table:
    """Q, a row of values for each state that was seen, and how often each was updated."""

    def __init__(self, actions: int, settings: TabularSettings):
        self.settings = settings
        self.q: defaultdict[State, np.ndarray] = defaultdict(lambda: np.full(actions, settings.optimism))
        self.visits: defaultdict[State, np.ndarray] = defaultdict(lambda: np.zeros(actions, dtype=np.int64))

    def best(self, state: State) -> int:
        """The action that is worth most, of those that were tried where any was; the first of equal ones."""
        values = self.q.get(state)
        if values is None:
            return 0
        tried = self.visits[state] > 0
        return int(np.where(tried, values, -np.inf).argmax()) if tried.any() else int(values.argmax())

    def move(self, state: State, action: int, target: float) -> None:
        """Move a value towards its target."""
        self.visits[state][action] += 1
        self.q[state][action] += (target - self.q[state][action]) * self.visits[state][action] ** -self.settings.rate


def train_table(
    kind: Kind,
    env: FineTuneEnv,
    segments: int,
    *,
    seed: int = 0,
    settings: TabularSettings | None = None,
    curve: LearningCurve | None = None,
) -> Table:
    """Learn for `segments` segments of training, whole episodes; curve: notes what is learned on the way.

    Raises UnknownName for another kind.
    """
    check_names("tabular algorithm", [kind], KINDS)
    check_whole("segments", segments, 1)
    settings = settings or TabularSettings()
    state_of = settings.discretisation.of(env)
    table, rng = Table(len(env.changes), settings), np.random.default_rng(seed)

    def explore(state: State, done: int) -> int:
        first, last = settings.exploration
        share = first + (last - first) * min(1.0, done / (settings.explored * segments))
        if rng.random() < share:
            return int(rng.integers(len(env.changes)))
        values = table.q[state]
        return int(rng.choice(np.flatnonzero(values == values.max())))

    done = 0
    while done < segments:
        state = state_of(env.reset(seed=None if done else seed)[0])
        action, ended = explore(state, done), False
        while not ended:
            observation, reward, ended, _, _ = env.step(action)
            done += 1
            following, next_action, ahead = state_of(observation), 0, 0.0
            if not ended:
                next_action = explore(following, done)
                values = table.q[following]
                ahead = float(values.max() if kind == "q_learning" else values[next_action])
            table.move(state, action, reward + ahead)
            state, action = following, next_action
        if curve is not None:
            curve.note(done, lambda observation: table.best(state_of(observation)))
    if curve is not None:
        curve.end(done, lambda observation: table.best(state_of(observation)))
    return table
