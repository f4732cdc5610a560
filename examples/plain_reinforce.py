"""REINFORCE with a moving baseline in one file, by a policy of its own: plain torch and the environment, no RL library.

The policy is any module that gives next-token logits. `collect` samples with it, and the rewards that come back are
score minus KL, token by token.

Run: python examples/plain_reinforce.py
"""

import argparse

import gymnasium as gym
import numpy as np
import torch

import textrl_env  # noqa: F401 - registers TextRLHF-v0
from textrl_agents.policy import LogitStates, Policy
from textrl_agents.rollout import collect
from textrl_env.models import PackedEpisodes, Vocabulary, load_model, pack

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--updates", type=int, default=40, help="policy updates")
parser.add_argument("--rows", type=int, default=64, help="episodes in a batch")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--kl-coef", type=float, default=0.05, help="weight of the KL charge")
arguments = parser.parse_args()


class PlainPolicy(Policy):
    """A causal language model that recomputes every prefix: simple, and right for a first agent."""

    def __init__(self, model, tokenizer):
        self.model, self.vocabulary = model, Vocabulary.of(model, tokenizer)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def states(self, shown: torch.Tensor | PackedEpisodes) -> LogitStates:
        """Observations end in the state that is asked for; a packed episode holds a state for each of its actions."""
        if isinstance(shown, PackedEpisodes):
            ids, rows, columns = shown.input_ids, shown.rows, shown.columns
        else:
            ids, rows, columns = shown.clamp(min=0), torch.arange(len(shown)), (shown >= 0).sum(dim=1) - 1
        logits = self.model(input_ids=ids).logits[rows, columns]
        return LogitStates(logits, values=torch.zeros(len(logits)))


torch.manual_seed(0)
env = gym.make_vec("TextRLHF-v0", num_envs=arguments.rows, kl_mode="deferred", kl_coef=arguments.kl_coef)
policy = PlainPolicy(*load_model("embedded"))
weights = list(policy.model.parameters())
optimizer = torch.optim.Adam(weights, lr=arguments.lr, eps=1e-5)
baseline = 0.0
for update in range(arguments.updates):
    episodes = collect(policy, env, episodes=arguments.rows, seed=update * arguments.rows)
    # Reward-to-go: what was earned from each token on, discount 1.
    returns = np.concatenate([episode.rewards[::-1].cumsum()[::-1] for episode in episodes])
    advantages = torch.from_numpy(returns - baseline).float()
    log_probs = policy.evaluate(pack(episodes, policy.device)).log_probs
    optimizer.zero_grad()
    (-(advantages * log_probs).mean()).backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    score, gained = (np.mean([getattr(episode, name) for episode in episodes]) for name in ("score", "episode_return"))
    baseline += 0.2 * (gained - baseline)
    print(f"update {update:3d}  score {score:6.3f}  return {gained:6.3f}  tokens {len(returns)}")
