"""Rows on what training reaches: known optima with SB3 and with RLlib, and the demo's held-out gold score."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from textrl_agents.check.known_optimum import (
    RLLIB_ITERATIONS,
    SB3_ITERATIONS,
    ExactResult,
    train_exact_with_rllib,
    train_exact_with_sb3,
    train_rllib_ppo,
)
from textrl_agents.evaluation import paired_difference
from textrl_agents.runs.demo import SMALL, demo_config
from textrl_agents.runs.train import train
from textrl_agents.speed.measurement import Bench, Measured, Target, measurement
from textrl_agents.speed.training import one_token_task
from textrl_env.errors import ConfigError

SB3_SECONDS, RLLIB_SECONDS = 60.0, 90.0
DEMO_KL = 15.0  # nats a response


# Fewer iterations do not reach the optimum, so `--quick` asks for less. This holds for RLlib too.
@measurement(Target(">=", 0.98), unit="of optimum", quick={"iterations": 40}, quick_target=Target(">=", 0.8))
def exact_with_sb3(bench: Bench, *, iterations: int = SB3_ITERATIONS) -> Measured:
    """Train SB3's PPO on `exact`; the normalized value that it reaches."""
    return _share_of_optimum(train_exact_with_sb3(0, device=bench.device, iterations=iterations), SB3_SECONDS)


@measurement(Target(">=", 0.97), unit="of optimum", quick={"iterations": 40}, quick_target=Target(">=", 0.8))
def exact_with_rllib(bench: Bench, *, iterations: int = RLLIB_ITERATIONS) -> Measured:
    """Train RLlib's PPO on `exact`; the normalized value that it reaches."""
    result = train_exact_with_rllib(0, device=bench.device, iterations=iterations)
    return _share_of_optimum(result, RLLIB_SECONDS, " with Ray's start")


def _share_of_optimum(result: ExactResult, limit: float, with_what: str = "") -> Measured:
    detail = f"in {result.seconds:.1f} s{with_what} (at most {limit:g} s)"
    return Measured(result.normalized, detail, within=result.seconds <= limit)


@measurement(Target("<=", 0.03), unit="from optimum")
def rewarded_token_share(bench: Bench, *, iterations: int = one_token_task.ITERATIONS) -> Measured:
    """Train RLlib's PPO on `one_token_task`; how far the rewarded token's share is from the optimal one."""
    env = {"task": one_token_task.ONE_TOKEN_TASK, "device": str(bench.device)}
    _, policy = train_rllib_ppo(env, 0, iterations, **one_token_task.SETTINGS)
    share, optimum = one_token_task.share_of_rewarded(policy), one_token_task.OPTIMUM
    return Measured(abs(share - optimum), f"share {share:.3f}, optimum {optimum:.3f}")


@measurement(Target(">=", 1.0), unit="of its 95% interval", quick={"tokens": 16_384})
def demo_gold_score(bench: Bench, *, tokens: int = SMALL["timesteps"]) -> Measured:
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
