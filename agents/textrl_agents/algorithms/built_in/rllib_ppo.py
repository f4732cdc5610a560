"""Proximal policy optimisation by RLlib, in one process or on a cluster.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347).
"""

from textrl_agents.algorithms.libraries.rllib import RLlibAlgorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

# On the tasks whose optimum is known.
EXACT = {
    "num_envs_per_env_runner": 128,
    "rollout_fragment_length": 20,
    "minibatch_size": 640,
    "clip_param": 0.1,
    "vf_loss_coeff": 0.5,
    "lr": FALLING,
}

ALGORITHM = RLlibAlgorithm(
    name="rllib_ppo",
    description="stock RLlib PPO",
    config_class="ray.rllib.algorithms.ppo:PPOConfig",
    learner_class="textrl_agents.rllib.learners:TextPPOLearner",
    connector_class="textrl_agents.rllib.connectors.columns:PackForPPO",
    connector_settings=("gamma", "lambda_"),
    defaults={
        # Below 1, over a value head that starts at zero, the first advantages would grow along a response.
        "lambda_": 1.0,
        "clip_param": 0.2,
        "num_epochs": 4,
        "vf_loss_coeff": 0.1,
        "vf_clip_param": float("inf"),
        # A weight of 0: measured, as `train/approx_kl`, and no part of the loss.
        "use_kl_loss": True,
        "kl_coeff": 0.0,
    },
    minibatches=4,
    settings={"num_envs_per_env_runner": 32, "num_epochs": 2, "lr": HALF},
    task_settings={
        "sentiment": {"lr": FULL},
        "exact": EXACT,
        "exact_turns": EXACT,
    },
)
