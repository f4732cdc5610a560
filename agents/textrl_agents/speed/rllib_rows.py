"""The rows of `textrl bench speed` on RLlib's adapter."""

from __future__ import annotations

from textrl_agents.rllib.exact import train_exact, train_policy
from textrl_agents.speed import one_token_task as oracle
from textrl_agents.speed import rllib_speed
from textrl_agents.speed.measurement import Measured, Run, Target, compared

EXACT_SECONDS = 90.0
ORACLE_ERROR = 0.03


def sampling(run: Run) -> Measured:
    """Tokens/s of a rollout against the SB3 adapter's."""
    sizes = run.sizes
    result = rllib_speed.sampling_against_sb3(
        rows=sizes.rows, tokens=sizes.tokens, longest=sizes.longest, repeats=run.repeats, device=run.device
    )
    return compared(result, Target(">=", 0.7), "RLlib", "SB3")


def update(run: Run) -> Measured:
    """Tokens/s of an update against RLlib's default per-timestep pipeline."""
    sizes = run.sizes
    result = rllib_speed.update_against_default_pipeline(
        rows=sizes.rllib_rows,
        tokens=sizes.prefix_tokens,
        minibatch_size=sizes.rllib_rows * sizes.prefix_tokens // 4,
        repeats=min(run.repeats, 3),
        device=run.device,
    )
    return compared(result, Target(">=", 20.0), "episodes", "RLlib's default pipeline")


def ratio(run: Run) -> Measured:
    """The ratio of new and old policy before the first minibatch."""
    sizes = run.sizes
    error = rllib_speed.largest_ratio_error(
        rows=sizes.rows // 2, fragment=8, updates=sizes.rllib_updates, device=run.device
    )
    detail = f"largest |ratio - 1| before {sizes.rllib_updates} updates that cut responses every 8 tokens"
    return Measured(error, Target("<=", 1e-5), detail, unit="")


def exact(run: Run) -> Measured:
    """The normalized value that PPO reaches on `exact`."""
    iterations = run.sizes.rllib_exact_iterations
    result = train_exact(0, device=run.device, **({} if iterations is None else {"iterations": iterations}))
    return Measured(
        result.normalized,
        Target(">=", run.sizes.rllib_exact_target),
        f"in {result.seconds:.1f} s with Ray's start (at most {EXACT_SECONDS:g} s)",
        unit="of optimum",
        within=result.seconds <= EXACT_SECONDS,
    )


def oracle_share(run: Run) -> Measured:
    """The share of a rewarded token, whose optimum has a closed form."""
    env = {"task": oracle.ORACLE, "device": str(run.device)}
    policy = train_policy(env, 0, run.sizes.oracle_iterations or oracle.ITERATIONS, **oracle.SETTINGS)
    share = oracle.share_of_rewarded(policy)
    detail = f"share {share:.3f}, optimum {oracle.OPTIMUM:.3f}"
    return Measured(abs(share - oracle.OPTIMUM), Target("<=", ORACLE_ERROR), detail, unit="from optimum")
