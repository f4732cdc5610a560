"""IMPALA by RLlib: actors sample while the learner updates, and V-trace corrects for samples of older policies.

Espeholt et al. 2018 (https://arxiv.org/abs/1802.01561).
"""

from textrl_agents.algorithms.libraries.rllib import RLlibAlgorithm
from textrl_agents.training.learning_rate import FALLING, HALF

ALGORITHM = RLlibAlgorithm(
    name="rllib_impala",
    description="stock RLlib IMPALA",
    config_class="ray.rllib.algorithms.impala:IMPALAConfig",
    learner_class="textrl_agents.rllib.learners:TextIMPALALearner",
    asynchronous=True,
    defaults={"vf_loss_coeff": 0.1},
    settings={"num_envs_per_env_runner": 32, "lr": HALF},
    task_settings={
        "exact": {"num_envs_per_env_runner": 128, "rollout_fragment_length": 20, "vf_loss_coeff": 0.5, "lr": FALLING},
    },
)
