"""REINFORCE with a moving baseline in one file: plain torch and the environment, no RL library.

Shows the contract from an agent's side: act on observations, pass the log-probability on with `TokenAction`, and the
rewards that come back are score minus KL, token by token.

Run: python examples/plain_reinforce.py
"""

import argparse

import gymnasium as gym
import numpy as np
import torch

import textrl_env
from textrl_env.models import load_model

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--updates", type=int, default=40, help="policy updates")
parser.add_argument("--rows", type=int, default=64, help="episodes in a batch")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--kl-coef", type=float, default=0.05, help="weight of the KL charge")
arguments = parser.parse_args()

torch.manual_seed(0)
env = gym.make_vec("TextRLHF-v0", num_envs=arguments.rows, kl_mode="log_ratio", kl_coef=arguments.kl_coef)
policy, tokenizer = load_model("embedded")
optimizer = torch.optim.Adam(policy.parameters(), lr=arguments.lr, eps=1e-5)


def next_token_log_probs(observations: torch.Tensor) -> torch.Tensor:
    """log pi(. | observation), [N, V]. Recomputes the whole prefix: simple, and right for a first agent."""
    lengths = (observations >= 0).sum(dim=1)
    logits = policy(input_ids=observations.clamp(min=0)).logits  # (N, L, V)
    return logits[torch.arange(len(lengths)), lengths - 1].log_softmax(dim=-1)


def collect() -> tuple[list[torch.Tensor], list[torch.Tensor], np.ndarray, list[float]]:
    """One episode a row: observations, actions and rewards by step, and the scores at the ends."""
    observations, _ = env.reset()
    running = np.ones(arguments.rows, dtype=bool)
    states, actions, rewards, scores = [], [], [], []
    while running.any():
        state = torch.from_numpy(observations)
        with torch.no_grad():
            log_probs = next_token_log_probs(state)
            tokens = torch.multinomial(log_probs.exp(), 1).squeeze(1)
            chosen = log_probs.gather(1, tokens[:, None]).squeeze(1)
        observations, reward, terminated, _, info = env.step(textrl_env.TokenAction(tokens, chosen))
        states.append(state)
        actions.append(tokens)
        # Rows that have ended go on with another episode; it is not part of this batch.
        rewards.append(np.where(running, reward, np.nan))
        scores += [info["score"][row] for row in np.flatnonzero(running & terminated)]
        running &= ~terminated
    return states, actions, np.array(rewards), scores


baseline = 0.0
for update in range(arguments.updates):
    states, actions, rewards, scores = collect()
    part = torch.from_numpy(~np.isnan(rewards))
    # Reward-to-go: what was earned from each token on, discount 1.
    returns = np.nan_to_num(rewards)[::-1].cumsum(axis=0)[::-1].copy()
    advantages = torch.from_numpy(returns - baseline).float()
    optimizer.zero_grad()
    for step, (state, tokens) in enumerate(zip(states, actions, strict=True)):
        rows = part[step]
        if rows.any():
            chosen = next_token_log_probs(state[rows]).gather(1, tokens[rows, None]).squeeze(1)
            (-(chosen * advantages[step, rows]).sum() / part.sum()).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    baseline += 0.2 * (returns[0].mean() - baseline)
    print(
        f"update {update:3d}  score {np.mean(scores):6.3f}  return {returns[0].mean():6.3f}  tokens {int(part.sum())}"
    )
