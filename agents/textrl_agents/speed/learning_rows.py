"""Rows on what training reaches with SB3: the known optimum of `exact`, and the demo's held-out gold score."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from textrl_agents.check.known_optimum import SB3_ITERATIONS, train_exact_with_sb3
from textrl_agents.evaluation import paired_difference
from textrl_agents.runs.demo import TIMESTEPS, demo_config
from textrl_agents.runs.train import train
from textrl_agents.speed.measurement import Bench, Measured, Target, measurement
from textrl_env.errors import ConfigError

EXACT_SECONDS = 60.0
DEMO_KL = 15.0  # nats a response


# Fewer iterations do not reach the optimum, so `--quick` asks for less.
@measurement(Target(">=", 0.98), unit="of optimum", quick={"iterations": 40}, quick_target=Target(">=", 0.8))
def exact_optimum(bench: Bench, *, iterations: int = SB3_ITERATIONS) -> Measured:
    """Train PPO on `exact`; the normalized value that it reaches."""
    result = train_exact_with_sb3(0, device=bench.device, iterations=iterations)
    return Measured(
        result.normalized,
        f"in {result.seconds:.1f} s (at most {EXACT_SECONDS:g} s)",
        within=result.seconds <= EXACT_SECONDS,
    )


@measurement(Target(">=", 1.0), unit="of its 95% interval", quick={"tokens": 16_384})
def demo_gold_score(bench: Bench, *, tokens: int = TIMESTEPS) -> Measured:
    """Run the demo; by how many half widths of its 95% interval the held-out gold score rises."""
    with tempfile.TemporaryDirectory() as folder:
        config = demo_config(timesteps=tokens, out=str(Path(folder, "run")))
        result = train(dataclasses.replace(config, device=str(bench.device)), progress=False)
    before, after = result.before, result.after
    if before is None or after is None:
        raise ConfigError("the demo was stopped before its last evaluation")
    rise, kl = paired_difference(before, after)["gold_score"], after["kl"]
    return Measured(
        rise.mean / rise.half_width,
        f"gold {before['gold_score'].mean:.2f} -> {after['gold_score'].mean:.2f}, rise {rise}; KL {kl} nats a response "
        f"(below {DEMO_KL:g}); {result.seconds:.0f} s",
        within=kl.mean < DEMO_KL,
    )
