"""From what RLlib's env runners sampled to stretches of episodes, and to what every learner has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from textrl_agents.rllib.episodes import PrefixBuffer
from textrl_env.accounts import Stretch
from textrl_env.trajectory import UNKNOWN, Trajectory


def stretch_of(episode: Any, kl_coef: float, kl_mode: str) -> Stretch:
    """Make a stretch of a `SingleAgentEpisode` of at least one step; its actions stand where its observations say.

    kl_coef, kl_mode: the episode's coefficient, and the environment's mode. Where the environment charges, the infos of
    the steps say what, and the last one at which coefficient.
    """
    observations = PrefixBuffer.of(episode.observations)
    lengths = observations.lengths  # of M + 1 observations
    is_action = np.zeros(lengths[-1], dtype=bool)
    is_action[lengths[:-1]] = True
    kl, ending = UNKNOWN, _ending(episode.get_infos(-1)) if episode.is_terminated else {}
    if kl_mode != "deferred":
        kl = _charged(episode.get_infos()[1:], kl_mode)
        kl_coef = float(episode.get_infos(-1)["kl_coef"]) if episode.is_terminated else kl_coef
    trajectory = Trajectory(
        observations.data.ids.copy(),
        is_action,
        log_probs=np.asarray(episode.get_extra_model_outputs(Columns.ACTION_LOGP), dtype=np.float32),
        rewards=np.asarray(episode.get_rewards(), dtype=np.float64),
        kl=kl,
        kl_coef=kl_coef,
        **ending,
    )
    return Stretch(str(episode.id_), trajectory, over=bool(episode.is_done))


def _ending(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the last step's info says of a trajectory that has terminated."""
    return {
        "prompt": info.get("prompt"),
        "response": str(info.get("response", "")),
        "finish_reason": str(info["finish_reason"]),
        "score": float(info["score"]),
        "score_parts": {name: float(part) for name, part in info["score_parts"].items()},
        "gold_score": None if info.get("gold_score") is None else float(info["gold_score"]),
        "turns": info.get("turns"),
        "success": None if info.get("success") is None else bool(info["success"]),
    }


def _charged(infos: Sequence[Mapping[str, Any]], kl_mode: str) -> np.ndarray:
    """What `kl_coef` weighed at each step, float64 [M], nats."""
    if kl_mode == "cross_entropy":
        return np.array([-info["ref_log_prob"] for info in infos], dtype=np.float64)
    return np.array([info["kl"] for info in infos], dtype=np.float64)


class LearnerExchange:
    """Gives every learner the stretches of all, so that each keeps the accounts of every episode.

    RLlib cuts episodes at fragments and deals the fragments out. The learners exchange over a process group of their
    own, since RLlib's talk on theirs in another thread.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def __call__(self, stretches: Sequence[Stretch]) -> list[Stretch]:
        """Return those of all learners, the end of an episode after its other stretches."""
        gathered: list[Any] = [list(stretches)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            if self._group is None:
                self._group = torch.distributed.new_group(backend="gloo")
            gathered = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, list(stretches), group=self._group)
        everything = (stretch for part in gathered for stretch in part)
        return sorted(everything, key=lambda stretch: stretch.over)
