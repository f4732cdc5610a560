"""A Q-learning table learns a learning-rate schedule, and the schedule fine-tunes a model.

The state is the training run: its learning rate, its losses. An action multiplies the rate. Every schedule of this run
is known, so the table learns from replayed segments in seconds; what it found is then trained, on other data too.

Run: python examples/steer_fine_tuning.py
"""

import argparse

import gymnasium
from stable_baselines3 import DQN

from textrl_agents.finetune.discretisation import Discretisation
from textrl_agents.finetune.learning_curve import play
from textrl_agents.finetune.tabular import train_table
from textrl_env.finetune.replay import enumerated_env

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--segments", type=int, default=4000, help="segments of training that the table learns from")
parser.add_argument("--data", default="story", help="another task to try the schedule on")
arguments = parser.parse_args()

replayed = enumerated_env("translate")
table = train_table("q_learning", replayed, arguments.segments, seed=0)
state_of = Discretisation().of(replayed)
learned = play(replayed, lambda observation: table.best(state_of(observation)))
tree = replayed.run.tree
print("learned rates", [f"{rate:.2g}" for rate in tree.rates(learned.actions)])
print(f"share of the best of {tree.gains().size:,} schedules: {learned.gain / tree.best().gain:.3f}")
print(f"best constant rate: {tree.best_baseline('constant')[1] / tree.best().gain:.3f}")

# The same schedule, trained for real.
for data in ("translate", arguments.data):
    env = gymnasium.make("textrl_env:TextRLHF-FineTune-v0", data=data)
    _, info = env.reset()
    before = info["validation_loss"]
    for action in learned.actions:
        *_, info = env.step(action)
    print(f"{data}: validation loss {before:.3f} to {info['validation_loss']:.3f}")

# Stock libraries take it as any other environment. DQN trains after every fourth segment.
agent = DQN("MlpPolicy", gymnasium.make("TextRLHF-FineTune-v0"), learning_starts=2, seed=0)
agent.learn(8)
print("DQN has trained", agent.num_timesteps, "segments")
