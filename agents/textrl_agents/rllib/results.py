"""What an RLlib algorithm gives: the policy in its learners, and an iteration's metrics under our names.

Two divergences appear side by side. `train/approx_kl` is measured from the *previous policy*, the one that sampled the
batch (RLlib calls it `mean_kl_loss`, and `curr_kl_coeff` its weight); `objective/kl` is measured from the *reference*,
per response, and is the one that `kl_coef` weighs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID

from textrl_agents.rllib.connectors.packing import METRICS_KEY, PackEpisodes
from textrl_env.models import CausalLMActorCritic

# A name in the learner's results -> SB3's name. APPO and IMPALA have some names of their own.
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


def policy_of(algorithm: Any) -> CausalLMActorCritic:
    """The actor-critic with the learners' present weights: a local learner's own, else a copy in this process."""
    group = algorithm.learner_group
    if group.is_local:
        module = group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    else:
        module = algorithm.env_runner.module
        module.set_state(group.get_weights()[DEFAULT_MODULE_ID])
    policy: CausalLMActorCritic = module.actor_critic
    return policy


def export_policy(algorithm: Any, folder: str | Path) -> None:
    """Write the policy as a folder that plain `AutoModelForCausalLM.from_pretrained` loads, the value head beside."""
    policy_of(algorithm).save_pretrained(folder)


def packer_of(learner: Any) -> PackEpisodes:
    """The learner connector that `make_config` put in."""
    return next(piece for piece in learner._learner_connector.connectors if isinstance(piece, PackEpisodes))


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
