"""An algorithm and a task of your own in the benchmark, in one file.

python examples/benchmark_my_algorithm.py          # checks the algorithm, then compares it with GRPO and best-of-n
textrl bench run --plugin examples/benchmark_my_algorithm.py --algos rank_reinforce,grpo --tasks exclaim --out runs/mine

A package does the same without --plugin, by entry points:
[project.entry-points."textrl.algorithms"]  rank_reinforce = "my_package:RANK_REINFORCE"
[project.entry-points."textrl.tasks"]       exclaim = "my_package:EXCLAIM"
"""

import sys

import numpy as np
import torch

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.registry import register_algorithm
from textrl_env import Task, TextGenVectorEnv, register_task
from textrl_env.models import CausalLMActorCritic, pack


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
    """REINFORCE on ranks: a response's advantage is its return's rank in the batch, between -1 and 1.

    The environment, the policy core and the KL are the package's; what is new is the one line that makes advantages.
    """
    rows, rounds = cell.settings["rows"], 0
    env = TextGenVectorEnv(rows, autoreset_mode="SAME_STEP", kl_mode="deferred", **cell.env_arguments)
    reference = env.kl_penalty.reference.lm.model
    policy = CausalLMActorCritic(
        type(reference)(reference.config).to(reference.device), env.tokenizer, max_length=env.rules.max_length
    )
    policy.model.load_state_dict(reference.state_dict())
    optimizer = torch.optim.Adam(policy.parameters(), lr=cell.settings["learning_rate"], eps=1e-5)
    tokens = 0
    while tokens < cell.budget:
        observations, _ = env.reset(seed=cell.seed * 100_000 + rounds)
        episodes, log_probs = {}, []
        while len(episodes) < rows:  # rows that are done go on with a new prompt, whose response is not used
            action = policy.step(torch.from_numpy(observations))
            log_probs.append(action.log_probs)
            observations, *_ = env.step(action.tokens.numpy())
            episodes = dict(env.transition.episodes) | episodes
            tokens += rows
        done = [episodes[row] for row in range(rows)]
        sampled = torch.stack(log_probs)
        packed = pack([done[row] for row in range(rows)], policy.device)
        acted = torch.cat([sampled[: len(done[row].response_ids), row] for row in range(rows)])
        kls = torch.zeros(rows).index_add_(0, packed.rows, env.kl_penalty(packed, acted).kl.float())
        returns = torch.tensor([episode.score for episode in done]) - env.kl_penalty.coef * kls
        advantages = 2 * returns.argsort().argsort() / (rows - 1) - 1
        loss = -(advantages[packed.rows] * policy.evaluate(packed).log_probs).sum() / rows
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        rounds += 1
        lengths = [len(episode.response_ids) for episode in done]
        score = float(np.mean([episode.score for episode in done]))
        record(tokens, score=score, kl=float(kls.mean()), length=float(np.mean(lengths)))
    return Trained(policy, tokens=tokens, close=env.close)


RANK_REINFORCE = Algorithm("rank_reinforce", train, "REINFORCE on ranks", settings={"rows": 64, "learning_rate": 1e-3})
register_algorithm(RANK_REINFORCE)
register_task(EXCLAIM)


if __name__ == "__main__":
    import subprocess

    from textrl_agents.benchmark.conformance import check_algorithm

    evaluation = check_algorithm(RANK_REINFORCE, "exclaim", budget=4096)
    print(f"the algorithm conforms; after 4096 tokens its score is {evaluation['score']}")
    tokens = sys.argv[1] if len(sys.argv) > 1 else "16384"
    command = [sys.executable, "-m", "textrl_agents.cli", "bench", "run", "--plugin", __file__, "--out", "runs/mine"]
    command += ["--algos", "reference,rank_reinforce,grpo,best_of_n", "--tasks", "exclaim", "--seeds", "1"]
    subprocess.run([*command, "--budget", tokens], check=True)
