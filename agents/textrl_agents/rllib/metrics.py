"""RLlib's results under the names that every library's metrics have here.

Two divergences appear side by side. `train/approx_kl` is measured from the *previous policy*, the one that sampled the
batch (RLlib calls it `mean_kl_loss`, and `curr_kl_coeff` its weight); `objective/kl` is measured from the *reference*,
per response, and is the one that `kl_coef` weighs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID

from textrl_agents.rllib.connectors.packing import METRICS_KEY

# RLlib's name in the learner's results, and SB3's. PPO's, then those of APPO and IMPALA where they differ.
_LEARNER_NAMES = {
    "policy_loss": "train/policy_gradient_loss",
    "mean_pi_loss": "train/policy_gradient_loss",
    "vf_loss": "train/value_loss",
    "mean_vf_loss": "train/value_loss",
    "total_loss": "train/loss",
    "mean_kl_loss": "train/approx_kl",
    "entropy": "train/entropy",
    "default_optimizer_learning_rate": "train/learning_rate",
    "gradients_default_optimizer_global_norm": "train/grad_norm",
}


def training_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers of one `Algorithm.train()`: `train/*` of its last minibatch, RLHF metrics of its last batch.

    Metrics of a batch are missing where the iteration brought none (an asynchronous learner was not done).
    """
    learner = result.get("learners", {}).get(DEFAULT_MODULE_ID, {})
    found = {ours: learner[theirs] for theirs, ours in _LEARNER_NAMES.items() if theirs in learner}
    found |= learner.get(METRICS_KEY, {})
    return {name: float(value) for name, value in found.items() if math.isfinite(float(value))}


def tokens_sampled(result: Mapping[str, Any]) -> int:
    """Tokens that were generated since the algorithm was first built."""
    return int(result.get("num_env_steps_sampled_lifetime", 0))
