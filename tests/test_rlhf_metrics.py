"""What is logged of the episodes that ended, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from textrl_agents.training.rlhf_metrics import EndedEpisode, rlhf_metrics


def ended(**changes: Any) -> EndedEpisode:
    fields = {"score": 1.0, "charged": 2.0, "kl_coef": 0.5, "surprisal": 4.0, "finish_reason": "eos"}
    return EndedEpisode(**{**fields, "gold_score": None, "score_parts": {}, **changes})


THREE = [
    ended(score=3.0, charged=2.0, kl_coef=0.5, surprisal=4.0, finish_reason="eos"),
    ended(score=1.0, charged=-1.0, kl_coef=0.25, surprisal=7.0, finish_reason="length"),
    ended(score=-1.0, charged=5.0, kl_coef=0.1, surprisal=1.0, finish_reason="eos"),
]


@pytest.mark.parametrize("kl_mode", ["deferred", "log_ratio", "auto"])
def test_means_by_hand(kl_mode: str):
    """Each episode is weighed with its own coefficient: the costs are 1, -0.25 and 0.5."""
    assert rlhf_metrics(THREE, kl_mode) == pytest.approx(
        {
            "objective/scores": 1.0,
            "objective/kl": 2.0,
            "objective/non_score_reward": -1.25 / 3,
            "objective/rlhf_reward": 1.0 - 1.25 / 3,
            "objective/entropy": 4.0,
            "rollout/episodes": 3.0,
            "rollout/eos_share": 2 / 3,
            "rollout/length_share": 1 / 3,
            "rollout/stop_share": 0.0,
        }
    )


def test_in_cross_entropy_mode_the_entropy_is_taken_off():
    """KL = cross-entropy - entropy: charged 2, -1, 5 less 4, 7, 1. What it cost is the whole charge."""
    metrics = rlhf_metrics(THREE, "cross_entropy")
    assert metrics["objective/kl"] == pytest.approx((-2 - 8 + 4) / 3)
    assert metrics["objective/non_score_reward"] == pytest.approx(-1.25 / 3)
    assert metrics["objective/rlhf_reward"] == pytest.approx(metrics["objective/scores"] - 1.25 / 3)
    assert metrics["objective/entropy"] == pytest.approx(4.0)


def test_gold_scores_and_parts_where_there_are_any():
    episodes = [
        ended(gold_score=1.0, score_parts={"length": 2.0, "style": 0.0}, finish_reason="stop"),
        ended(gold_score=4.0, score_parts={"length": 3.0, "style": -1.0}, finish_reason="stop"),
    ]
    metrics = rlhf_metrics(episodes, "deferred")
    assert metrics["objective/gold_scores"] == 2.5
    assert metrics["objective/score_parts/length"] == 2.5
    assert metrics["objective/score_parts/style"] == -0.5
    assert metrics["rollout/stop_share"] == 1.0
    assert "objective/gold_scores" not in rlhf_metrics(THREE, "deferred")


def test_no_episode_has_no_mean():
    """A batch in which none ended: no NaN, no warning, a count."""
    assert rlhf_metrics([], "deferred") == {"rollout/episodes": 0.0}


@pytest.mark.parametrize("gold", [None, 0.0, 2])
def test_from_the_last_info(gold: float | None):
    info = {"score": 2, "finish_reason": "stop", "score_parts": {"style": 3}, "kl_sum": 99.0, "kl_coef": 99.0}
    info |= {} if gold is None else {"gold_score": gold}
    episode = EndedEpisode.of(info, charged=1.5, kl_coef=0.2, surprisal=3.0)
    assert episode == (2.0, 1.5, 0.2, 3.0, "stop", gold, {"style": 3.0})
    assert episode.cost == pytest.approx(0.3)
    assert isinstance(episode.score_parts["style"], float)
