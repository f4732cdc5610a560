"""The accounts of episodes that fragments and learners cut: what they are charged and what is reported of them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray.rllib")

from textrl_agents.rllib import ledger as ledger_module
from textrl_agents.rllib.ledger import FORGET_AFTER, EpisodeLedger, Stretch
from textrl_env.kl import KLPenalty

ADAPTIVE = {"value": 0.5, "target": 1.0, "horizon": 10.0}


def final(**changes: Any) -> dict[str, Any]:
    """The info of an episode's last step, as the deferred environment gives it."""
    info: dict[str, Any] = {"score": 1.0, "finish_reason": "eos", "score_parts": {}, "kl_sum": np.nan, "kl_coef": 9.0}
    return {**info, **changes}


def stretch(name: str, kl: float, surprisal: float, info: dict[str, Any] | None, **changes: Any) -> Stretch:
    """One token, for which the deferred environment pays the score alone."""
    reward = 0.0 if info is None else info["score"]
    return Stretch(name, kl, surprisal, reward, 1, info is not None, info)._replace(**changes)


def new_ledger(kl_coef: Any = 0.5, *, deferred: bool = True) -> EpisodeLedger:
    return EpisodeLedger(KLPenalty(None, kl_coef), deferred=deferred)


def test_an_episode_over_three_batches():
    """Its sums are of all its stretches, whatever else is in the batches, and it is reported once."""
    ledger = new_ledger()
    assert ledger.settle([stretch("a", 1.0, 10.0, None), stretch("b", 0.25, 1.0, None)]) == []
    assert ledger.settle([stretch("a", 2.0, 20.0, None)]) == []
    (a,) = ledger.settle([stretch("a", 4.0, 40.0, final(score=3.0)), stretch("c", 9.0, 9.0, None)])
    assert (a.charged, a.surprisal, a.kl_coef, a.score) == (7.0, 70.0, 0.5, 3.0)
    (b,) = ledger.settle([stretch("b", 0.5, 2.0, final())])
    assert (b.charged, b.surprisal) == (0.75, 3.0)
    assert list(ledger.state_dict()["open"]) == ["c"]
    assert list(ledger.recent) == [(3.0 - 0.5 * 7.0, 3), (1.0 - 0.5 * 0.75, 2)]


def test_an_episode_keeps_the_coefficient_it_started_with():
    """The controller moves on, for episodes that start afterwards alone."""
    ledger = new_ledger(ADAPTIVE)
    ledger.settle([stretch("old", 1.0, 0.0, None), stretch("other", 3.0, 0.0, final())])
    moved = 0.5 * (1 + 0.2 * 1 / 10)  # 3 is far above the target of 1: clipped to 0.2
    assert ledger.penalty.coef == pytest.approx(moved)
    assert (ledger.kl_coef("old"), ledger.kl_coef("new")) == (0.5, pytest.approx(moved))
    ledger.settle([stretch("old", 1.0, 0.0, None), stretch("new", 1.0, 0.0, None)])
    assert ledger.kl_coef("old") == 0.5
    ended = ledger.settle([stretch("old", 1.0, 0.0, final()), stretch("new", 1.0, 0.0, final())])
    assert [(episode.charged, episode.kl_coef) for episode in ended] == [(3.0, 0.5), (2.0, pytest.approx(moved))]


class Noting:
    """A controller that is told things."""

    value = 0.5

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    def update(self, kl: float, episodes: int) -> None:
        self.told.append((kl, episodes))


def test_an_episode_that_a_time_limit_cuts_off_is_charged_and_not_scored():
    """Its KL is in the return that is logged; there is no score to report, and nothing is kept open."""
    ledger = new_ledger(controller := Noting())
    ledger.settle([stretch("a", 1.0, 0.0, None, reward=0.25)])
    assert ledger.settle([stretch("a", 2.0, 0.0, None, reward=1.0, tokens=4, over=True)]) == []
    assert list(ledger.recent) == [(1.25 - 0.5 * 3.0, 5)]
    assert ledger.state_dict()["open"] == {}
    assert controller.told == []


def test_the_controller_is_told_the_mean_kl_of_whole_episodes():
    """Once a batch, of those that ended in it; never of a batch where none did."""
    ledger = new_ledger(controller := Noting())
    ledger.settle([stretch("a", 1.0, 0.0, None), stretch("b", 1.0, 0.0, final())])
    ledger.settle([stretch("c", 5.0, 0.0, None)])
    ledger.settle([stretch("a", 2.0, 0.0, final()), stretch("c", 1.0, 0.0, final())])
    assert controller.told == [(1.0, 1), (4.5, 2)]


def test_where_the_environment_charges_its_own_numbers_are_reported():
    """Not deferred: the sum and the coefficient of info, and the controller on the learner is left alone."""
    ledger = new_ledger(controller := Noting(), deferred=False)
    ledger.settle([stretch("a", 0.0, 2.0, None)])
    (episode,) = ledger.settle([stretch("a", 0.0, 3.0, final(kl_sum=1.5, kl_coef=0.125, score=2.0), reward=1.8)])
    assert (episode.charged, episode.kl_coef, episode.surprisal) == (1.5, 0.125, 5.0)
    assert ledger.recent[-1] == (1.8, 2), "what the environment paid"
    assert controller.told == []


PARTS = [stretch("a", 1.0, 8.0, None), stretch("a", 2.0, 16.0, None), stretch("a", 4.0, 32.0, final())]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_an_episodes_stretches_does_not_matter(order: tuple[int, ...]):
    """RLlib sorts stretches by length and splits them between learners: the end may come first."""
    ledger = new_ledger()
    (episode,) = ledger.settle([PARTS[place] for place in order])
    assert (episode.charged, episode.surprisal) == (7.0, 56.0)
    assert ledger.state_dict()["open"] == {}


def test_an_episode_that_was_lost_is_forgotten():
    """Its env runner died: nothing grows for ever. One that goes on is kept, however long it takes."""
    ledger = new_ledger()
    ledger.settle([stretch("lost", 1.0, 0.0, None), stretch("slow", 1.0, 0.0, None)])
    for update in range(FORGET_AFTER - 1):
        ledger.settle([stretch("slow", 1.0, 0.0, None)] if update % 50 == 0 else [])
    assert set(ledger.state_dict()["open"]) == {"lost", "slow"}
    ledger.settle([])
    assert set(ledger.state_dict()["open"]) == {"slow"}
    (slow,) = ledger.settle([stretch("slow", 1.0, 0.0, final())])
    assert slow.charged == 4.0


def test_a_saved_ledger_goes_on_where_it_was():
    """Through JSON, so plain numbers and text; the coefficient, open accounts, their age and the record alike."""
    ledger = new_ledger(ADAPTIVE)
    ledger.settle([stretch("a", 1.0, 2.0, None), stretch("lost", 1.0, 0.0, None), stretch("b", 3.0, 0.0, final())])
    ledger.settle([stretch("c", 1.0, 0.0, None)])
    loaded = new_ledger(ADAPTIVE)
    loaded.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert loaded.state_dict() == ledger.state_dict()
    assert loaded.penalty.coef == ledger.penalty.coef != 0.5
    batches: list[list[Stretch]] = [[stretch("a", 4.0, 4.0, final()), stretch("c", 2.0, 0.0, final())]]
    for batch in batches + [[]] * (FORGET_AFTER - 2):
        assert loaded.settle(batch) == ledger.settle(batch)
        assert loaded.state_dict() == ledger.state_dict()
    assert "lost" not in loaded.state_dict()["open"]


def test_every_learner_keeps_the_accounts_of_all(monkeypatch: pytest.MonkeyPatch):
    """Two learners, an episode cut between them: both report it, with the whole sum, in the same order, and their
    controllers do not drift apart."""
    shares = [
        [[stretch("a", 1.0, 1.0, None), stretch("b", 2.0, 0.0, final())], [stretch("c", 6.0, 0.0, final())]],
        [[stretch("a", 4.0, 4.0, final())], [stretch("a", 2.0, 2.0, None), stretch("d", 1.0, 0.0, None)]],
        [[], [stretch("d", 1.0, 0.0, final(score=5.0))]],
    ]
    groups = []

    def new_group(backend: str) -> str:
        groups.append(backend)
        return "our own"

    distributed = ledger_module.torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "new_group", new_group)
    learners = [new_ledger(ADAPTIVE), new_ledger(ADAPTIVE)]
    reports: list[list[Any]] = [[], []]
    for batch in shares:

        def gather(into: list[Any], mine: list[Stretch], group: Any, batch: Any = batch) -> None:
            assert group == "our own", "RLlib's learners talk on theirs"
            assert mine in batch
            into[:] = batch

        monkeypatch.setattr(distributed, "all_gather_object", gather)
        for rank, learner in enumerate(learners):
            reports[rank] += learner.settle(batch[rank])
    assert reports[0] == reports[1]
    assert [(episode.charged, episode.score) for episode in reports[0]] == [(2, 1), (6, 1), (7, 1), (2, 5)]
    assert learners[0].state_dict() == learners[1].state_dict()
    assert learners[0].penalty.coef != 0.5
    assert groups == ["gloo", "gloo"], "one group a learner, once"


def test_without_other_learners_nothing_is_exchanged():
    assert not torch.distributed.is_initialized()
    ledger = new_ledger()
    assert [e.charged for e in ledger.settle([stretch("a", 1.0, 0.0, final()), stretch("b", 2.0, 0.0, final())])] == [
        1.0,
        2.0,
    ]
