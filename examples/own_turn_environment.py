"""A turn environment of your own in twenty lines, trained by stock SB3 PPO.

A guest asks how two things were, one after the other, and likes short, kind answers.

Run: python examples/own_turn_environment.py
"""

import argparse
from random import Random

from textrl_agents.evaluation import evaluate
from textrl_agents.sb3 import make_agent
from textrl_env import Task

THINGS = ("film", "novel", "soup", "cake", "room", "hotel", "phone", "camera", "concert", "song")
KIND = {"good", "great", "nice", "lovely", "wonderful", "perfect", "superb", "charming", "pleasant", "fine"}
UNKIND = {"not", "never", "bad", "poor", "weak", "awful", "dreadful", "terrible", "disappointing", "neither"}


class Guest:
    def reset(self, seed=None):
        self.things = Random(seed).sample(THINGS, 2)
        return f"How was the {self.things.pop()}?", {}

    def step(self, action):
        words = action.lower().replace(".", "").replace("!", "").split()
        is_kind = bool(KIND & set(words)) and not UNKIND & set(words)
        parts = {"kind": 0.3 * is_kind, "short": 0.2 * (is_kind and len(words) <= 8)}
        is_over = not self.things
        said = "Goodbye." if is_over else f"How was the {self.things.pop()}?"
        return said, sum(parts.values()), is_over, False, {"score_parts": parts}

    def get_state(self):  # with these two a training that was stopped goes on exactly where it was
        return self.things

    def set_state(self, things):
        self.things = things


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=60_000, help="generated tokens")
parser.add_argument("--episodes", type=int, default=128, help="held-out episodes in each evaluation")
arguments = parser.parse_args()

task = Task("guest", turns=Guest, max_turns=2, max_prompt_tokens=32, max_turn_tokens=40, max_new_tokens=128)
agent = make_agent("ppo", env_kwargs={"task": task}, n_envs=32, seed=0)
before = evaluate(agent.policy.actor_critic, task, episodes=arguments.episodes)
agent.learn(arguments.timesteps)
after = evaluate(agent.policy.actor_critic, task, episodes=arguments.episodes)

for name, result in (("before", before), ("after", after)):
    print(f"{name}: score {result.statistics['score']}")
    for turn in result.episodes[0].turns:
        print(f"    {turn['action']}")
