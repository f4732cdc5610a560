"""What RLlib's env runners sampled, as stretches of episodes; and what several learners have of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray.rllib")

from test_accounts import ADAPTIVE, accounts_of, stretch
from test_rllib_packing import wire

from textrl_agents.rllib.connectors import stretches as stretches_module
from textrl_agents.rllib.connectors.stretches import LearnerExchange
from textrl_env.accounts import Stretch


def shown(stretches: list[Stretch]) -> list[tuple[Any, ...]]:
    return [(name, each.ids.tolist(), each.kl.tolist(), over) for name, each, over in stretches]


def test_every_learner_keeps_the_accounts_of_all(monkeypatch: pytest.MonkeyPatch):
    """Two learners, an episode cut between them: both report it, with the whole sum, in the same order, and their
    controllers do not drift apart. The end of an episode may come from the first of them."""
    shares = [
        [[stretch("a", 1.0), stretch("b", 2.0, score=1.0)], [stretch("c", 6.0, score=1.0)]],
        [[stretch("a", 4.0, at=3, score=1.0)], [stretch("a", 2.0, at=2), stretch("d", 1.0)]],
        [[], [stretch("d", 1.0, at=2, score=5.0)]],
    ]
    groups = []

    def new_group(backend: str) -> str:
        groups.append(backend)
        return "our own"

    distributed = stretches_module.torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "new_group", new_group)
    learners = [accounts_of(ADAPTIVE), accounts_of(ADAPTIVE)]
    exchanges = [LearnerExchange(), LearnerExchange()]
    reports: list[list[Any]] = [[], []]
    for batch in shares:

        def gather(into: list[Any], mine: list[Stretch], group: Any, batch: Any = batch) -> None:
            assert group == "our own", "RLlib's learners talk on theirs"
            assert any(mine == part for part in batch)
            into[:] = batch

        monkeypatch.setattr(distributed, "all_gather_object", gather)
        for rank, (learner, exchange) in enumerate(zip(learners, exchanges, strict=True)):
            over = learner.settle(exchange(batch[rank]))
            reports[rank] += [(episode.kl.tolist(), episode.score) for episode in over]
    assert reports[0] == reports[1] == [([2], 1), ([6], 1), ([1, 2, 4], 1), ([1, 1], 5)]
    assert learners[0].penalty.coef == learners[1].penalty.coef != 0.5
    assert groups == ["gloo", "gloo"], "one group a learner, once"


def test_without_other_learners_nothing_is_exchanged():
    assert not torch.distributed.is_initialized()
    mine = [stretch("a", 1.0, score=1.0), stretch("b", 2.0)]
    assert shown(LearnerExchange()(mine)) == shown([mine[1], mine[0]])


@pytest.mark.parametrize("kl_mode", ["log_ratio", "auto", "cross_entropy"])
def test_where_the_environment_charges_its_own_numbers_are_reported(kl_mode: str):
    """The terms of each step add up to what the episode's last info says, over fragments; the coefficient is its own,
    and the learner's follows it."""
    wired = wire(env={"kl_mode": kl_mode, "kl_coef": {"value": 0.25, "target": 0.1, "horizon": 20}})
    wired.columns(wired.runner.sample())
    (connector,) = wired.learner._learner_connector.connectors
    accounts, settled = connector.accounts, []
    original = accounts.settle
    accounts.settle = lambda given: settled.append(original(given)) or settled[-1]
    checked = 0
    for _ in range(6):
        episodes = wired.runner.sample()
        ended = {str(each.id_): each.get_infos(-1) for each in episodes if each.is_terminated}
        wired.columns(episodes)
        for episode, info in zip(settled[-1], ended.values(), strict=True):
            assert episode.kl_sum == pytest.approx(info["kl_sum"], abs=1e-6)
            assert (episode.kl_coef, episode.score) == (info["kl_coef"], info["score"])
            assert episode.episode_return == pytest.approx(info["episode_return"], abs=1e-6)
            assert (len(episode), episode.response) == (info["episode_length"], info["response"])
            checked += 1
        if ended:
            assert accounts.penalty.coef == settled[-1][-1].kl_coef
    assert checked > 6
    assert np.abs([episode.kl_sum for batch in settled for episode in batch]).max() > 0.05
    if kl_mode != "cross_entropy":
        assert accounts.penalty.coef != 0.25, "the environment's coefficient has not moved: shows nothing"
