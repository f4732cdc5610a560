"""Rows on TRL's RLOO and GRPO against ours: sampling, scoring, the reference and the update, on the same work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_SENTIMENT = {"task": "sentiment"}


@measurement(Target(">=", 1.0))
def rloo_against_trl(bench: Bench, *, rows: int = 64, rounds: int = 4) -> Measured:
    """Compare tokens/s of RLOO, sampling and update together, with TRL's.

    rows: responses of a round. rounds: of each timing, since TRL's loop is set up anew for each.
    """
    return training_against_trl("rloo", bench, _SENTIMENT, rows=rows, rounds=rounds)


@measurement(Target(">=", 1.0))
def grpo_against_trl(bench: Bench, *, rows: int = 64, rounds: int = 4) -> Measured:
    """Compare tokens/s of GRPO, sampling and update together, with TRL's. The sizes are those of RLOO."""
    return training_against_trl("grpo", bench, _SENTIMENT, rows=rows, rounds=rounds)


def training_against_trl(algorithm: str, bench: Bench, env: Mapping[str, Any], *, rows: int, rounds: int) -> Measured:
    """Compare an algorithm that we and TRL have. env: the environment's arguments, but for the device."""
    arguments = {**env, "device": bench.device}
    with trl_session() as folder:
        theirs = TrlRounds(algorithm, arguments, rows=rows, rounds=rounds, folder=folder)
        tokens = theirs() // rounds  # also its warm-up
        ours = OurRounds(algorithm, arguments, rows=rows, rounds=rounds, tokens=tokens)
        return compared(compare(ours, theirs, repeats=bench.repeats, device=bench.device), "ours", "TRL")


class TrlRounds:
    """TRL's own training loop, a few rounds at a time: generate, score, step on each minibatch.

    env: the environment's arguments. rows: responses of a round. The learning rate is 0, so that every round does the
    same work.
    """

    def __init__(self, algorithm: str, env: Mapping[str, Any], *, rows: int, rounds: int, folder: str):
        one_row = TextGenVectorEnv(1, **env, kl_mode="deferred")
        self.run = OnlineRun(
            algorithm,
            one_row,
            initial_policy(one_row),
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

    def __init__(self, algorithm: str, env: Mapping[str, Any], *, rows: int, rounds: int, tokens: int):
        steps = max(1, round(tokens / rows))
        agent = make_agent(
            algorithm,
            n_envs=rows,
            n_steps=steps,
            n_epochs=1,
            group_size=GENERATIONS,
            batch_size=max(2, steps * rows // MINIBATCHES),
            learning_rate=0.0,
            env_kwargs=dict(env),
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
