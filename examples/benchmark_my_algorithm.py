"""An algorithm and a task of your own in the benchmark, in one file.

python examples/benchmark_my_algorithm.py          # checks the algorithm, then compares it with GRPO and best-of-n
textrl bench run --plugin examples/benchmark_my_algorithm.py --algos rank_reinforce,grpo --tasks exclaim --out runs/mine

A package does the same without --plugin, by entry points:
[project.entry-points."textrl.algorithms"]  rank_reinforce = "my_package:RANK_REINFORCE"
[project.entry-points."textrl.tasks"]       exclaim = "my_package:EXCLAIM"
"""

import sys

import torch

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.cell_setup import initial_policy, training_env
from textrl_agents.algorithms.registry import register_algorithm
from textrl_agents.algorithms.response_groups import means, token_count
from textrl_agents.rollout import collect
from textrl_env import Task, register_task
from textrl_env.models import pack


def exclaims(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    """The reward: an exclamation, in few words."""
    return [float("!" in text) - 0.02 * len(text.split()) for text in completions]


EXCLAIM = Task(
    name="exclaim",
    prompts=["The soup was", "I thought the movie was", "For me the hotel felt", "This time the concert was"],
    heldout_prompts=["The film was", "My friend found the album"],
    reward=exclaims,
    max_new_tokens=24,
    description="end a review with an exclamation",
)


def train(cell: Cell, record: Record) -> Trained:
    """REINFORCE on ranks: a response's advantage is its return's rank in the batch, between -1 and 1."""
    rows = cell.settings["rows"]
    env = training_env(cell, rows)
    policy = initial_policy(env)
    optimizer = torch.optim.Adam(policy.parameters(), lr=cell.settings["learning_rate"], eps=1e-5)
    tokens = rounds = 0
    while tokens < cell.budget:
        sampled = collect(policy, env, episodes=rows, seed=cell.seed * 100_000 + rounds)
        returns = torch.tensor([episode.episode_return for episode in sampled], device=policy.device)
        advantages = 2 * returns.argsort().argsort() / (rows - 1) - 1
        packed = pack(sampled, policy.device)
        loss = -(advantages[packed.rows] * policy.evaluate(packed).log_probs).sum() / rows
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        rounds += 1
        tokens += token_count(sampled)
        record(tokens, **means(sampled))
    return Trained(policy, tokens=tokens, close=env.close)


RANK_REINFORCE = Algorithm("rank_reinforce", train, "REINFORCE on ranks", settings={"rows": 64, "learning_rate": 1e-3})
register_algorithm(RANK_REINFORCE)
register_task(EXCLAIM)


if __name__ == "__main__":
    import subprocess

    from textrl_agents.check.conformance import check_algorithm

    evaluation = check_algorithm(RANK_REINFORCE, "exclaim", budget=4096)
    print(f"the algorithm conforms; after 4096 tokens its score is {evaluation['score']}")
    tokens = sys.argv[1] if len(sys.argv) > 1 else "16384"
    command = [sys.executable, "-m", "textrl_agents.cli", "bench", "run", "--plugin", __file__, "--out", "runs/mine"]
    command += ["--algos", "reference,rank_reinforce,grpo,best_of_n", "--tasks", "exclaim", "--seeds", "1"]
    subprocess.run([*command, "--budget", tokens], check=True)
