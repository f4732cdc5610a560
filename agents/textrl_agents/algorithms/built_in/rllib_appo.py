"""Asynchronous PPO by RLlib: IMPALA's architecture and V-trace, with PPO's clipped loss and a target network.

Espeholt et al. 2018 (https://arxiv.org/abs/1802.01561) and Luo et al. 2020 (https://arxiv.org/abs/1912.00167).
"""

from textrl_agents.algorithms.libraries.rllib import RLlibAlgorithm
from textrl_agents.training.learning_rate import FALLING, HALF

ALGORITHM = RLlibAlgorithm(
    name="rllib_appo",
    description="stock RLlib APPO",
    config_class="ray.rllib.algorithms.appo:APPOConfig",
    learner_class="textrl_agents.rllib.learners:TextAPPOLearner",
    module_class="textrl_agents.rllib.module:TargetCausalLMModule",
    asynchronous=True,
    # A short memory: RLlib's own replays each of its last 8 batches, and moves the target every 32.
    defaults={
        "vf_loss_coeff": 0.1,
        "clip_param": 0.2,
        "circular_buffer_num_batches": 2,
        "circular_buffer_iterations_per_batch": 2,
        "target_network_update_freq": 1,
    },
    settings={"num_envs_per_env_runner": 32, "lr": HALF},
    task_settings={
        "exact": {"num_envs_per_env_runner": 128, "rollout_fragment_length": 20, "vf_loss_coeff": 0.5, "lr": FALLING},
    },
)
