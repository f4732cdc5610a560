"""The rows of `textrl bench speed` on TRL."""

from __future__ import annotations

from textrl_agents.speed import trl_speed
from textrl_agents.speed.measurement import Measured, Run, Target, compared

ROUNDS = 4  # of a measurement: TRL's loop is set up anew for each


def rloo(run: Run) -> Measured:
    """Tokens/s of RLOO, sampling and update together, against TRL's."""
    return _training("rloo", run)


def grpo(run: Run) -> Measured:
    """The same of GRPO."""
    return _training("grpo", run)


def _training(algorithm: str, run: Run) -> Measured:
    result = trl_speed.training_against_trl(
        algorithm, rows=run.sizes.rows, rounds=ROUNDS, repeats=run.repeats, device=run.device
    )
    return compared(result, Target(">=", 1.0), "ours", "TRL")
