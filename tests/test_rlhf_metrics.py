"""What is logged of the episodes that ended, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from textrl_agents.training.rlhf_metrics import rlhf_metrics
from textrl_env.trajectory import Trajectory


def ended(*, charged: float = 2.0, surprisal: float = 4.0, **fields: Any) -> Trajectory:
    """Of two tokens, the second of which takes all of the KL and the surprisal."""
    columns = {"kl": np.array([0.0, charged]), "log_probs": np.array([0.0, -surprisal])}
    fields = {"score": 1.0, "kl_coef": 0.5, "finish_reason": "eos", **fields}
    return Trajectory.of_response(np.array([0]), np.array([1, 2]), **columns, **fields)


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
