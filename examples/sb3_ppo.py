"""Stock Stable-Baselines3 PPO on the default task, in four lines.

Run: python examples/sb3_ppo.py
"""

import argparse

from textrl_agents.evaluation import evaluate
from textrl_agents.sb3 import make_agent

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=60_000, help="generated tokens")
parser.add_argument("--episodes", type=int, default=128, help="held-out responses in each evaluation")
arguments = parser.parse_args()

agent = make_agent("ppo", "TextRLHF-v0", n_envs=64, seed=0, verbose=1)
before = evaluate(agent.policy.actor_critic, task="sentiment", episodes=arguments.episodes)
agent.learn(arguments.timesteps)
after = evaluate(agent.policy.actor_critic, task="sentiment", episodes=arguments.episodes)

for name, result in (("before", before), ("after", after)):
    print(name, {measure: round(value.mean, 3) for measure, value in result.statistics.items()})
agent.policy.actor_critic.save_pretrained("runs/sb3_ppo/policy")
