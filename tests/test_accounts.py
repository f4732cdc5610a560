"""The accounts of episodes that rollouts, fragments and learners cut: what they are charged, and what comes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.runs.checkpoint_files import load_state, save_state
from textrl_env.accounts import FORGET_AFTER, KLAccounts, Stretch, charge_kl
from textrl_env.kl import KLPenalty, KLTerms
from textrl_env.models import PackedEpisodes, pack
from textrl_env.trajectory import Trajectory

ADAPTIVE = {"value": 0.5, "target": 1.0, "horizon": 10.0}


def stretch(
    name: str, kl: float, surprisal: float = 0.0, *, at: int = 1, score: float | None = None, cut: bool = False
) -> Stretch:
    """One action at place `at` of its episode, charged `kl`: its end with `score`, or by a time limit."""
    known: dict[str, Any] = {} if score is None else {"score": score, "finish_reason": "eos"}
    is_action = np.arange(at + 1) == at
    columns = {"log_probs": np.array([-surprisal]), "rewards": np.array([score or 0.0]), "kl": np.array([kl])}
    trajectory = Trajectory(np.arange(at + 1), is_action, **columns, kl_coef=0.5, **known)
    trajectory.charge(trajectory.kl)
    return Stretch(name, trajectory, score is not None or cut)


def accounts_of(kl_coef: Any = 0.5, *, deferred: bool = True) -> KLAccounts:
    return KLAccounts(KLPenalty(None, kl_coef), deferred=deferred)


class Given(KLPenalty):
    """A penalty whose terms are given, and not computed."""

    def __init__(self, kl: list[float], kl_coef: Any = 0.5):
        super().__init__(None, kl_coef)
        self.kl, self.asked = kl, []

    def __call__(self, packed: PackedEpisodes, log_probs: torch.Tensor, policy: Any = None) -> KLTerms:
        self.asked.append((packed.actions.tolist(), log_probs.tolist()))
        return KLTerms(log_probs, torch.tensor(self.kl))


def two() -> list[Trajectory]:
    """Three actions in two episodes, tokens of the environment between the first two."""
    one = Trajectory(
        np.array([9, 1, 8, 8, 2]),
        np.array([False, True, False, False, True]),
        log_probs=np.array([-1.0, -2.0]),
        rewards=np.array([0.25, 3.0]),
        kl_coef=0.5,
    )
    other = Trajectory.of_response(np.array([9, 9]), np.array([3]), log_probs=np.array([-3.0]), kl_coef=0.1)
    other.rewards = np.array([-1.0])
    return [one, other]


def test_every_action_pays_its_own_kl_at_its_episodes_coefficient():
    """By hand: 0.25 - 0.5 * 1, 3 - 0.5 * 4, and -1 - 0.1 * -2."""
    penalty, (one, other) = Given([1.0, 4.0, -2.0]), two()
    charge_kl([one, other], penalty, packed=pack([one, other], "cpu"))
    assert penalty.asked == [([1, 2, 3], [-1.0, -2.0, -3.0])]
    assert one.rewards.tolist() == [-0.25, 1.0]
    assert other.rewards == pytest.approx([-0.8])
    assert (one.kl_sum, other.kl_sum) == (5.0, -2.0)
    assert one.episode_return == pytest.approx(3.25 - 0.5 * one.kl_sum)


def test_what_the_environment_has_charged_is_not_charged_again():
    penalty, trajectories = Given([1.0, 4.0, -2.0]), two()
    accounts = KLAccounts(penalty, deferred=False)
    stretches = [Stretch(row, trajectory, over=True) for row, trajectory in enumerate(trajectories)]
    accounts.charge(stretches, pack(trajectories, "cpu"))
    assert penalty.asked == []
    assert [each.rewards.tolist() for each in trajectories] == [[0.25, 3.0], [-1.0]]
    KLAccounts(penalty, deferred=True).charge(stretches, pack(trajectories, "cpu"))
    assert len(penalty.asked) == 1
    charge_kl([], penalty)
    assert len(penalty.asked) == 1, "asked about nothing"


def test_an_episode_over_three_batches():
    """It is put together from all its stretches, whatever else is in the batches, and comes out once."""
    accounts = accounts_of()
    assert accounts.settle([stretch("a", 1.0, 10.0), stretch("b", 0.25, 1.0)]) == []
    assert accounts.settle([stretch("a", 2.0, 20.0, at=2)]) == []
    (a,) = accounts.settle([stretch("a", 4.0, 40.0, at=4, score=3.0), stretch("c", 9.0, 9.0)])
    assert (a.kl_sum, a.surprisal, a.kl_coef, a.score, len(a)) == (7.0, 70.0, 0.5, 3.0, 3)
    assert a.is_action.tolist() == [False, True, True, False, True], "a token of the environment counts as an action"
    assert a.rewards.tolist() == [-0.5, -1.0, 3.0 - 2.0]
    (b,) = accounts.settle([stretch("b", 0.5, 2.0, at=2, score=1.0)])
    assert (b.kl_sum, b.surprisal, b.episode_return) == (0.75, 3.0, 1.0 - 0.5 * 0.75)
    assert [entry["episode"] for entry in accounts.state_dict()["open"]] == ["c"]


def test_an_episode_keeps_the_coefficient_it_started_with():
    """The controller moves on, for episodes that start afterwards alone."""
    accounts = accounts_of(ADAPTIVE)
    assert accounts.coef("old") == 0.5
    accounts.settle([stretch("old", 1.0), stretch("other", 3.0, score=1.0)])
    moved = 0.5 * (1 + 0.2 * 1 / 10)  # 3 is far above the target of 1: clipped to 0.2
    assert accounts.penalty.coef == pytest.approx(moved)
    assert (accounts.coef("old"), accounts.coef("new")) == (0.5, pytest.approx(moved))
    accounts.settle([stretch("old", 1.0, at=2)])
    assert accounts.coef("old") == 0.5
    (old,) = accounts.settle([stretch("old", 1.0, at=3, score=1.0)])
    assert (old.kl_sum, old.kl_coef) == (3.0, 0.5)


class Noting:
    """A controller that is told things."""

    value = 0.5

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    def update(self, kl: float, episodes: int) -> None:
        self.told.append((kl, episodes))


def test_an_episode_that_a_time_limit_cuts_off_is_charged_and_not_scored():
    """Its KL is in its return; the controller hears nothing of it, and nothing is kept open."""
    accounts = accounts_of(controller := Noting())
    accounts.settle([stretch("a", 1.0)])
    (a,) = accounts.settle([stretch("a", 2.0, at=2, cut=True)])
    assert (a.episode_return, len(a), a.finish_reason) == (-0.5 * 3.0, 2, "")
    assert accounts.state_dict()["open"] == []
    assert controller.told == []


def test_the_controller_is_told_the_mean_kl_of_whole_episodes():
    """Once a batch, of those that ended in it; never of a batch where none did, and never where the environment
    charges: it adapts there."""
    for deferred in (True, False):
        accounts = accounts_of(controller := Noting(), deferred=deferred)
        accounts.settle([stretch("a", 1.0), stretch("b", 1.0, score=1.0)])
        accounts.settle([stretch("c", 5.0)])
        accounts.settle([stretch("a", 2.0, at=2, score=1.0), stretch("c", 1.0, at=2, score=1.0)])
        assert controller.told == ([(1.0, 1), (4.5, 2)] if deferred else [])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_of_stretches_before_the_last_does_not_matter(order: tuple[int, int]):
    """Learners and threads may bring them in any order: each action keeps its own numbers."""
    accounts = accounts_of()
    parts = [stretch("a", 1.0, 8.0), stretch("a", 2.0, 16.0, at=3)]
    for place in order:
        accounts.settle([parts[place]])
    (a,) = accounts.settle([stretch("a", 4.0, 32.0, at=4, score=1.0)])
    assert a.kl.tolist() == [1.0, 2.0, 4.0]
    assert a.log_probs.tolist() == [-8.0, -16.0, -32.0]
    assert a.response_ids.tolist() == [1, 3, 4]


def test_an_episode_that_was_lost_is_forgotten():
    """Its env runner died: nothing grows for ever. One that goes on is kept, however long it takes."""

    def names() -> set[str]:
        return {entry["episode"] for entry in accounts.state_dict()["open"]}

    accounts = accounts_of()
    accounts.settle([stretch("lost", 1.0), stretch("slow", 1.0)])
    for update in range(FORGET_AFTER - 1):
        accounts.settle([stretch("slow", 1.0, at=2 + update)] if update % 50 == 0 else [])
    assert names() == {"lost", "slow"}
    accounts.settle([])
    assert names() == {"slow"}
    (slow,) = accounts.settle([stretch("slow", 1.0, at=FORGET_AFTER + 2, score=1.0)])
    assert slow.kl_sum == 4.0


def test_saved_accounts_go_on_where_they_were(tmp_path: Path):
    """Through the files of a checkpoint, so arrays, numbers and text: the coefficient, open episodes and their age."""

    def plain(state: dict[str, Any]) -> str:
        return json.dumps(state, default=np.ndarray.tolist)

    accounts = accounts_of(ADAPTIVE)
    accounts.settle([stretch("a", 1.0, 2.0), stretch("lost", 1.0), stretch("b", 3.0, score=1.0)])
    accounts.settle([stretch(7, 1.0)])  # type: ignore[arg-type]  # a row of SB3's is a number
    save_state(accounts.state_dict(), tmp_path, "accounts")
    loaded = accounts_of(ADAPTIVE)
    loaded.load_state_dict(load_state(tmp_path, "accounts"))
    assert plain(loaded.state_dict()) == plain(accounts.state_dict())
    assert loaded.penalty.coef == accounts.penalty.coef != 0.5
    ends = [stretch("a", 4.0, 4.0, at=2, score=1.0), stretch(7, 2.0, at=2, score=1.0)]  # type: ignore[arg-type]
    for batch in [ends, *[[]] * (FORGET_AFTER - 2)]:
        one, other = loaded.settle(batch), accounts.settle(batch)
        assert [each.kl.tolist() for each in one] == [each.kl.tolist() for each in other]
        assert plain(loaded.state_dict()) == plain(accounts.state_dict())
    assert loaded.state_dict()["open"] == [], "what was lost is as old as before"
