"""What is logged of the episodes that ended, under TRL's names for every library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from textrl_env.trajectory import Trajectory

FINISH_REASONS = ("eos", "stop", "length")
TURN_FINISH_REASONS = ("env", "turns", "truncated")  # of episodes of several turns, besides


def finish_shares(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """Why episodes ended, in shares that sum to 1; "truncated" where a turn environment's time-out cut one off."""
    reasons = Counter(episode.finish_reason or "truncated" for episode in episodes)
    several = any(episode.turns is not None for episode in episodes)
    return {name: reasons[name] / len(episodes) for name in FINISH_REASONS + several * TURN_FINISH_REASONS}


def successes(episodes: Sequence[Trajectory]) -> list[float]:
    """Whether each episode ended well, 1 or 0; nothing where no turn environment says so of any.

    One that a limit or a time-out ended, before its turn environment could judge it, did not end well.
    """
    if all(episode.success is None for episode in episodes):
        return []
    return [float(bool(episode.success)) for episode in episodes]


def rlhf_metrics(episodes: Sequence[Trajectory], kl_mode: str) -> dict[str, float]:
    """Return means over `episodes`, which are whole and have their KL charged.

    `objective/scores`, `objective/kl` (nats per response, from the reference), `objective/non_score_reward` (what
    the KL took), `objective/rlhf_reward` (their sum, the return that is trained), `objective/entropy` (nats per
    response), `objective/gold_scores` and `objective/score_parts/<name>` where there are any, and `rollout/episodes`,
    `rollout/eos_share`, `rollout/length_share`, `rollout/stop_share`. Of episodes of several turns also the shares of
    `TURN_FINISH_REASONS`, `rollout/turns`, their mean number, and `rollout/success`, the share that succeeded.
    """
    metrics: dict[str, float] = {"rollout/episodes": float(len(episodes))}
    if not episodes:
        return metrics
    charged = np.array([episode.kl_sum for episode in episodes])
    entropy = np.array([episode.surprisal for episode in episodes])
    scores = np.array([episode.score for episode in episodes])
    cost = np.array([episode.kl_coef for episode in episodes]) * charged
    columns = {
        # A cross-entropy charge contains the policy's entropy: KL = cross-entropy - entropy.
        "kl": charged - entropy if kl_mode == "cross_entropy" else charged,
        "scores": scores,
        "non_score_reward": -cost,
        "rlhf_reward": scores - cost,
        "entropy": entropy,
    }
    if episodes[0].gold_score is not None:
        columns["gold_scores"] = np.array([episode.gold_score for episode in episodes], dtype=np.float64)
    for name in dict.fromkeys(name for episode in episodes for name in episode.score_parts):
        # A turn environment names a part where there is something to say.
        columns[f"score_parts/{name}"] = np.array([episode.score_parts.get(name, 0.0) for episode in episodes])
    metrics |= {f"objective/{name}": float(column.mean()) for name, column in columns.items()}
    turns = [len(episode.turns) for episode in episodes if episode.turns is not None]
    for name, found in (("turns", turns), ("success", successes(episodes))):
        if found:
            metrics[f"rollout/{name}"] = float(np.mean(found))
    return metrics | {f"rollout/{reason}_share": share for reason, share in finish_shares(episodes).items()}
