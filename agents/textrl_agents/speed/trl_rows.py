"""Rows on TRL's RLOO and GRPO against ours: sampling, scoring, the reference and the update, on the same work."""

from __future__ import annotations

import torch

from textrl_agents.algorithms.cell_setup import initial_policy
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_agents.trl import OnlineRun
from textrl_agents.trl.trainer import trl_session
from textrl_env import TextGenVectorEnv

GENERATIONS = 4  # responses to each prompt
MINIBATCHES = 4  # steps on each batch of responses


@measurement(Target(">=", 1.0))
def rloo_against_trl(bench: Bench, *, rows: int = 64, rounds: int = 4) -> Measured:
    """Compare tokens/s of RLOO, sampling and update together, with TRL's.

    rows: responses of a round. rounds: of each timing, since TRL's loop is set up anew for each.
    """
    return _training_against_trl("rloo", bench, rows, rounds)


@measurement(Target(">=", 1.0))
def grpo_against_trl(bench: Bench, *, rows: int = 64, rounds: int = 4) -> Measured:
    """Compare tokens/s of GRPO, sampling and update together, with TRL's. The sizes are those of RLOO."""
    return _training_against_trl("grpo", bench, rows, rounds)


def _training_against_trl(algorithm: str, bench: Bench, rows: int, rounds: int) -> Measured:
    with trl_session() as folder:
        theirs = TrlRounds(algorithm, rows=rows, rounds=rounds, folder=folder, device=bench.device)
        tokens = theirs() // rounds  # also its warm-up
        ours = OurRounds(algorithm, rows=rows, rounds=rounds, tokens=tokens, device=bench.device)
        return compared(compare(ours, theirs, repeats=bench.repeats, device=bench.device), "ours", "TRL")


class TrlRounds:
    """TRL's own training loop on `sentiment`, a few rounds at a time: generate, score, step on each minibatch.

    rows: responses of a round. The learning rate is 0, so that every round does the same work.
    """

    def __init__(self, algorithm: str, *, rows: int, rounds: int, folder: str, device: torch.device):
        env = TextGenVectorEnv(1, "sentiment", kl_mode="deferred", device=device)
        self.run = OnlineRun(
            algorithm,
            env,
            initial_policy(env),
            budget=2**40,
            folder=folder,
            schedule=WarmupSchedule(0.0),
            settings={
                "num_generations": GENERATIONS,
                "per_device_train_batch_size": rows // MINIBATCHES,
                "steps_per_generation": MINIBATCHES,
            },
        )
        self.run.trainer.args.max_steps = rounds * self.run.steps_per_round

    def __call__(self) -> int:
        """Run all rounds; return the tokens of their responses, padding not counted."""
        before = self.run.tokens
        self.run.trainer.train()
        return self.run.tokens - before


class OurRounds:
    """Our algorithm on the same task, model and reward, with as many tokens in a round and in a minibatch."""

    def __init__(self, algorithm: str, *, rows: int, rounds: int, tokens: int, device: torch.device):
        steps = max(1, round(tokens / rows))
        agent = make_agent(
            algorithm,
            n_envs=rows,
            n_steps=steps,
            n_epochs=1,
            group_size=GENERATIONS,
            batch_size=max(2, steps * rows // MINIBATCHES),
            learning_rate=0.0,
            env_kwargs={"task": "sentiment", "device": device},
            seed=0,
        )
        self.rounds, self.phases = rounds, SB3Phases(agent)

    def __call__(self) -> int:
        """Run all rounds; return their tokens."""
        tokens = 0
        for _ in range(self.rounds):
            tokens += self.phases.collect()
            self.phases.train()
        return tokens
