"""Rows on a pretrained model: what it does a second, what the device would allow, and the others on the same work.

The rollout and the update are the demo's: stock SB3 PPO with LoRA, two epochs. Both sides of a comparison hold the same
adapter.
"""

from __future__ import annotations

import functools

from textrl_agents.runs.demo import PRETRAINED
from textrl_agents.speed.measurement import Bench, Measured, Measurement, Target, Work, compare, compared, measurement
from textrl_agents.speed.pretrained.workload import PretrainedWorkload
from textrl_agents.speed.rooflines.ppo_bounds import PPOTimes
from textrl_agents.speed.sampling import decoding_rows
from textrl_agents.speed.sampling.rollout_rows import TransformersRollout
from textrl_agents.speed.training.trl_rows import training_against_trl
from textrl_agents.speed.workload import Workload

ROWS, STEPS = PRETRAINED["n_envs"], PRETRAINED["algorithm"]["n_steps"]  # of the demo's rollouts
COMPARED = 32  # rows of a comparison
QUICK = {"rows": 8, "n_steps": 16}


@measurement(None, unit="GFLOP/s")
def products(bench: Bench) -> Measured:
    """Measure products with the model's own matrices, in the type that it computes in."""
    workload = _workload(bench)
    kind = str(workload.policy.lm.dtype).removeprefix("torch.")
    return Measured(workload.peaks.flops / 1e9, f"{workload.costs.weights:,} weights in matrices, {kind}")


@measurement(None, unit="GB/s")
def bandwidth(bench: Bench) -> Measured:
    """Measure the copy of a tensor that the caches do not hold."""
    workload = _workload(bench)
    held = workload.costs.itemsize * workload.costs.weights
    return Measured(workload.peaks.bandwidth / 1e9, f"read and written; the weights are {held / 1e6:,.0f} MB")


@measurement(None, unit="tokens/s", quick=QUICK)
def rollout(bench: Bench, *, rows: int = ROWS, n_steps: int = STEPS) -> Measured:
    """Time the demo's rollout: sampling, the environment, the reward and the deferred KL."""
    times = _times(bench, rows, n_steps)
    return Measured(times.tokens / times.rollout, f"{rows} rows, {n_steps} tokens each, in {times.rollout:.3g} s")


@measurement(None, unit="of roofline", quick=QUICK)
def rollout_share(bench: Bench, *, rows: int = ROWS, n_steps: int = STEPS) -> Measured:
    """Hold it against the least time that the measured peaks allow; `rollout_bound` has the formula."""
    times = _times(bench, rows, n_steps)
    return _share(times, times.rollout, times.rollout_bound)


@measurement(None, unit="tokens/s", quick=QUICK)
def update(bench: Bench, *, rows: int = ROWS, n_steps: int = STEPS) -> Measured:
    """Time the demo's update: two epochs over the rollout's tokens, each of which counts once."""
    times = _times(bench, rows, n_steps)
    return Measured(times.tokens / times.update, f"two epochs over {times.tokens} tokens in {times.update:.3g} s")


@measurement(None, unit="of roofline", quick=QUICK)
def update_share(bench: Bench, *, rows: int = ROWS, n_steps: int = STEPS) -> Measured:
    """Hold it against the least time that the measured peaks allow; `update_bound` has the formula."""
    times = _times(bench, rows, n_steps)
    return _share(times, times.update, times.update_bound)


@measurement(None, unit="tokens/s", quick=QUICK)
def end_to_end(bench: Bench, *, rows: int = ROWS, n_steps: int = STEPS) -> Measured:
    """Time the demo's rollout and update together."""
    times = _times(bench, rows, n_steps)
    return Measured(times.end_to_end, f"rollout {times.rollout:.3g} s, update {times.update:.3g} s")


@measurement(Target(">=", 1.1), quick={"rows": 8, "tokens": 16})
def rollout_of_equal_lengths(bench: Bench, *, rows: int = COMPARED, tokens: int = 64) -> Measured:
    """Compare PPO's rollout, with reward and KL, with `generate` alone. tokens: of each response; none ends before."""
    workload = bench.workload().without_eos()
    return _against_generate(bench, workload, workload.agent(rows, tokens, tokens).collect, rows, tokens)


@measurement(Target(">=", 3.0), quick={"rows": 8, "n_steps": 16, "longest": 64})
def rollout_to_eos(bench: Bench, *, rows: int = COMPARED, n_steps: int = 64, longest: int = 128) -> Measured:
    """Compare the same where responses end by the model's own end of turn. Only real tokens are counted.

    longest: tokens of a response at most. n_steps: of a rollout.
    """
    workload = bench.workload()
    return _against_generate(bench, workload, workload.agent(rows, n_steps, longest).collect, rows, longest)


stepping = Measurement(
    functools.partial(decoding_rows.stepping.measure, rows=COMPARED, tokens=64),
    Target(">=", 1.0),
    quick={"rows": 8, "tokens": 16},
)
stepping_against_continuous_batching = Measurement(
    functools.partial(decoding_rows.stepping_against_continuous_batching.measure, rows=COMPARED, tokens=64),
    Target(">=", 0.8),
    quick={"rows": 8, "tokens": 16},
)


@measurement(Target(">=", 1.0), quick={"rows": 8})
def rloo_against_trl(bench: Bench, *, rows: int = COMPARED, rounds: int = 1) -> Measured:
    """Compare tokens/s of RLOO, sampling and update together, with TRL's. rows: responses of a round."""
    return training_against_trl("rloo", bench, _workload(bench).env, rows=rows, rounds=rounds)


@measurement(Target(">=", 1.0), quick={"rows": 8})
def grpo_against_trl(bench: Bench, *, rows: int = COMPARED, rounds: int = 1) -> Measured:
    """Compare tokens/s of GRPO with TRL's. The sizes are those of RLOO."""
    return training_against_trl("grpo", bench, _workload(bench).env, rows=rows, rounds=rounds)


def _workload(bench: Bench) -> PretrainedWorkload:
    workload = bench.workload()
    assert isinstance(workload, PretrainedWorkload)  # `run_speed(model=...)` makes it
    return workload


def _times(bench: Bench, rows: int, n_steps: int) -> PPOTimes:
    return _workload(bench).ppo_times(rows=rows, n_steps=n_steps, repeats=bench.repeats)


def _share(times: PPOTimes, seconds: float, bound: float) -> Measured:
    return Measured(bound / seconds, f"{times.tokens / seconds:,.0f} of {times.tokens / bound:,.0f} tokens/s")


def _against_generate(bench: Bench, workload: Workload, collect: Work, rows: int, longest: int) -> Measured:
    theirs = TransformersRollout(workload, rows, longest).generated_tokens
    result = compare(collect, theirs, repeats=bench.repeats, device=bench.device)
    return compared(result, "rollout", "generate")
