"""Stock RLlib PPO on the default task, in one process.

Run: python examples/rllib_ppo.py
"""

import argparse

from textrl_agents.evaluation import evaluate
from textrl_agents.rllib import export_policy, make_config, policy_of, ray_session, training_metrics

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=60_000, help="generated tokens")
parser.add_argument("--episodes", type=int, default=128, help="held-out responses in each evaluation")
arguments = parser.parse_args()

# A stock PPOConfig: any of its settings can be given here by name, or changed with its own methods.
config = make_config(
    "ppo",
    {"task": "sentiment", "kl_coef": 0.05},
    total_timesteps=arguments.timesteps,
    num_envs_per_env_runner=64,
    seed=0,
)
with ray_session():
    algorithm = config.build_algo()
    before = evaluate(policy_of(algorithm), task="sentiment", episodes=arguments.episodes)
    tokens = 0
    while tokens < arguments.timesteps:
        result = algorithm.train()
        tokens = int(result["num_env_steps_sampled_lifetime"])
        metrics = training_metrics(result)
        print(f"{tokens:7,} tokens  score {metrics['objective/scores']:6.3f}  KL {metrics['objective/kl']:5.2f}")
    after = evaluate(policy_of(algorithm), task="sentiment", episodes=arguments.episodes)
    export_policy(algorithm, "runs/rllib_ppo/policy")
    algorithm.stop()

for name, result in (("before", before), ("after", after)):
    print(name, {measure: round(value.mean, 3) for measure, value in result.statistics.items()})
