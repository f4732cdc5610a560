"""Your own reward: a function with TRL's signature, alone and mixed with the embedded reward model.

Run: python examples/custom_reward.py
"""

import argparse
from typing import Any

from textrl_agents.sb3 import make_agent


def short_and_exclaiming(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """One point for an exclamation mark, less a tenth for each word."""
    return [float("!" in text) - 0.1 * len(text.split()) for text in completions]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=40_000, help="generated tokens")
arguments = parser.parse_args()

# A list is a weighted sum; `info["score_parts"]` keeps the components apart.
reward = [(short_and_exclaiming, 1.0), ("embedded", 0.5)]
agent = make_agent("ppo", env_kwargs={"task": "sentiment", "reward": reward, "kl_coef": 0.1}, seed=0)
agent.learn(arguments.timesteps)
for episode in agent.rollout_buffer.episodes[:5]:
    print(f"{episode.score:6.2f}  {episode.score_parts}  {episode.prompt}|{episode.response}")
