"""A game of two, trained against a fixed opponent: the reference, which is the model as it was before training.

Both look for the same hidden number by the same hints, in turn. Whoever names it first wins. The policy begins.

Run: python examples/two_player_game.py
"""

import argparse

import torch

from textrl_agents.evaluation import evaluate
from textrl_agents.sb3 import make_agent
from textrl_env import Task
from textrl_env.models import load_model
from textrl_env.turns.built_in.guess import guessed_number
from textrl_env.turns.game import Answer, Game

REFERENCE = load_model("embedded-turns")


@torch.no_grad()
def opponent(message, rng, longest=10):
    """The reference's reply, drawn by the game's own generator: the same seed and replies give the same game."""
    tokenizer = REFERENCE.tokenizer
    chat = [{"role": "user", "content": message}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False, return_tensors="pt")
    prompt = ids.shape[1]
    while ids.shape[1] < prompt + longest:
        probabilities = REFERENCE.model(ids).logits[0, -1].softmax(-1).tolist()
        token = rng.choices(range(len(probabilities)), probabilities)[0]
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return tokenizer.decode(ids[0, prompt:]).split("<|")[0]  # what follows the end of turn is not said


class Duel(Game):
    def begin(self, rng, split):
        self.rng, self.low = rng, rng.randint(1, 64)
        self.high = self.low + 15
        self.number = rng.randint(self.low, self.high)
        return self.asked()

    def asked(self):
        return f"Guess my number from {self.low} to {self.high}."

    def narrow(self, guess):
        """Whether it is the number; if not, both have learnt on which side it is."""
        if guess is not None and self.low <= guess <= self.high and guess != self.number:
            self.low, self.high = (guess + 1, self.high) if guess < self.number else (self.low, guess - 1)
        return guess == self.number

    def answer(self, reply):
        if self.narrow(guessed_number(reply)):
            return Answer("Yes!", {"won": 1.0}, is_over=True, success=True)
        if self.narrow(guessed_number(opponent(self.asked(), self.rng))):
            return Answer(f"The other one found {self.number}.", is_over=True, success=False)
        return Answer(self.asked())


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=40_000, help="generated tokens")
parser.add_argument("--episodes", type=int, default=256, help="held-out games in each evaluation")
arguments = parser.parse_args()

limits = {"max_turns": 6, "max_prompt_tokens": 40, "max_turn_tokens": 10, "max_new_tokens": 240}
task = Task("duel", turns=Duel, model="embedded-turns", **limits)
agent = make_agent("ppo", env_kwargs={"task": task}, n_envs=32, seed=0)
before = evaluate(agent.policy.actor_critic, task, episodes=arguments.episodes)
agent.learn(arguments.timesteps)
after = evaluate(agent.policy.actor_critic, task, episodes=arguments.episodes)
for name, result in (("before", before), ("after", after)):
    print(f"{name}: games won {result.statistics['score']}")  # a game that nobody wins counts as lost
