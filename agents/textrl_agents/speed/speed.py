"""`textrl bench speed`: what this package promises about speed and memory, measured side by side on this machine.

Each row is one run of both sides in turn; its value is a ratio wherever there is something to compare with, so that it
means the same on a fast machine and on a slow one.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from textrl_agents.evaluation.fresh_samples import paired_difference
from textrl_agents.runs.demo import demo_config
from textrl_agents.runs.train import train
from textrl_agents.sb3.exact import train_exact
from textrl_agents.speed import env_speed, generation_speed, update_memory, update_speed
from textrl_agents.speed.measurement import FULL, QUICK, Measured, Run, Target, compared
from textrl_agents.speed.names import chosen_names
from textrl_agents.speed.workload import Subject, embedded_subject
from textrl_agents.training.extras import missing_extra
from textrl_agents.training.quiet import errors_only
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of
from textrl_env.models.storage.loading import resolve_device

EXACT_SECONDS = 60.0
DEMO_KL = 15.0


def _rollout_equal(run: Run) -> Measured:
    result = generation_speed.rollout_equal_lengths(
        run.subject(), rows=run.sizes.rows, tokens=run.sizes.tokens, repeats=run.repeats
    )
    return compared(result, Target(">=", 1.0), "rollout", "by hand")


def _rollout_eos(run: Run) -> Measured:
    result = generation_speed.rollout_to_eos(
        run.subject(),
        rows=run.sizes.rows,
        tokens=run.sizes.longest,
        n_steps=run.sizes.tokens,
        repeats=run.repeats,
    )
    return compared(result, Target(">=", 2.5), "rollout", "by hand")


def _stepping(run: Run) -> Measured:
    result = generation_speed.stepping(run.subject(), rows=run.sizes.rows, tokens=run.sizes.tokens, repeats=run.repeats)
    return compared(result, Target(">=", 1.0), "act", "generate")


def _update(run: Run) -> Measured:
    result = update_speed.episodes_against_prefixes(
        run.subject(),
        rows=run.sizes.prefix_rows,
        tokens=run.sizes.prefix_tokens,
        batch_size=max(2, run.sizes.prefix_rows * run.sizes.prefix_tokens // 4),
        repeats=min(run.repeats, 3),
    )
    return compared(result, Target(">=", 20.0), "episodes", "prefixes")


def _update_length(run: Run) -> Measured:
    sizes = run.sizes
    result = update_speed.long_against_short(
        run.subject(),
        long=sizes.long_tokens,
        short=sizes.short_tokens,
        batch_size=sizes.batch_tokens,
        repeats=run.repeats,
    )
    inverted = result._replace(ratio=1.0 / result.ratio)
    names = f"responses of {sizes.long_tokens}", f"of {sizes.short_tokens}"
    return compared(inverted, Target("<=", 1.5), *names)


def _memory(run: Run) -> Measured:
    sizes = run.sizes
    peaks = update_memory.measure(
        run.device, vocabulary=sizes.vocabulary, rows=sizes.memory_rows, tokens=sizes.memory_tokens
    )
    detail = (
        f"{sizes.memory_rows * sizes.memory_tokens} tokens, vocabulary {sizes.vocabulary}: "
        f"chunked {peaks.chunked / 2**20:,.0f} MiB, unchunked {peaks.unchunked / 2**20:,.0f} MiB"
    )
    return Measured(peaks.ratio, Target("<=", 0.4), detail)


def _environment(run: Run) -> Measured:
    value = env_speed.microseconds_per_token(
        run.subject(),
        rows=run.sizes.rows,
        tokens=run.sizes.longest,
        steps=run.sizes.env_steps,
        repeats=run.repeats,
    )
    detail = f"{run.sizes.rows} rows, no model called, responses of {env_speed.MEAN_RESPONSE} tokens on average"
    return Measured(value, Target("<=", 5.0), detail, unit="us/token")


def _exact(run: Run) -> Measured:
    iterations = run.sizes.exact_iterations
    result = train_exact(0, device=run.device, **({} if iterations is None else {"iterations": iterations}))
    return Measured(
        result.normalized,
        Target(">=", run.sizes.exact_target),
        f"in {result.seconds:.1f} s (at most {EXACT_SECONDS:g} s)",
        unit="of optimum",
        within=result.seconds <= EXACT_SECONDS,
    )


def _demo(run: Run) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        config = demo_config(timesteps=run.sizes.demo_tokens, out=str(Path(folder, "run")))
        result = train(dataclasses.replace(config, device=str(run.device)), progress=False)
    before, after = result.before, result.after
    if before is None or after is None:
        raise ConfigError("the demo was stopped before its last evaluation")
    rise, kl = paired_difference(before, after)["gold_score"], after["kl"]
    return Measured(
        rise.mean / rise.half_width,
        Target(">=", 1.0),
        f"gold {before['gold_score'].mean:.2f} -> {after['gold_score'].mean:.2f}, rise {rise}; KL {kl} nats a response "
        f"(below {DEMO_KL:g}); {result.seconds:.0f} s",
        unit="of its 95% interval",
        within=kl.mean < DEMO_KL,
    )


def _rllib(name: str) -> Callable[[Run], Measured]:
    """A row of `rllib_rows`, imported when it is measured: RLlib need not be installed."""

    def measure(run: Run) -> Measured:
        rows = importlib.import_module("textrl_agents.speed.rllib_rows")
        with errors_only("ray"), errors_only("ray.rllib"):
            return getattr(rows, name)(run)

    return measure


def _trl(name: str) -> Callable[[Run], Measured]:
    """The same of `trl_rows` and TRL."""
    return lambda run: getattr(importlib.import_module("textrl_agents.speed.trl_rows"), name)(run)


MEASUREMENTS: dict[str, Callable[[Run], Measured]] = {
    "rollout vs by hand, equal lengths": _rollout_equal,
    "rollout vs by hand, to EOS": _rollout_eos,
    "stepping vs generate, equal lengths": _stepping,
    "update vs one prefix per transition": _update,
    "update time per token, long vs short": _update_length,
    "update memory, chunked vs not": _memory,
    "vector env alone": _environment,
    "exact: PPO vs optimum": _exact,
    "demo: rise of held-out gold": _demo,
    "rllib: sampling vs SB3": _rllib("sampling"),
    "rllib: update vs its default pipeline": _rllib("update"),
    "rllib: ratio at the first minibatch": _rllib("ratio"),
    "rllib: exact, PPO vs optimum": _rllib("exact"),
    "rllib: share of the rewarded token": _rllib("oracle_share"),
    "trl: RLOO, sampling and update": _trl("rloo"),
    "trl: GRPO, sampling and update": _trl("grpo"),
}


def run_speed(
    *,
    device: str | torch.device = "auto",
    only: str | Sequence[str] | None = None,
    repeats: int = 3,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure, and return one row a measurement.

    device: as for `load_model`. On a CPU everything runs on one thread.
    only: a part of the names in `speed_names`, or several; every measurement whose name contains one is run.
    repeats: rounds of each comparison; the value is their median. quick: less work, about a minute in all.
    progress: called with each measurement's name when it starts.

    A row has `name`, `value`, `unit`, `target` (such as ">= 1"), `ok`, `detail` and `quick`. Raises UnknownName where
    `only` fits no measurement. One that fails is a row with the value None, not ok, and the error as its detail.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats must be a whole number >= 1, got {repeats!r}")
    names = chosen_names(only)
    place = resolve_device(device)
    subjects: list[Subject] = []

    def subject() -> Subject:
        if not subjects:  # loaded for the first measurement that needs it
            subjects.append(embedded_subject(place))
        return subjects[0]

    run = Run(place, subject, QUICK if quick else FULL, repeats)
    threads = torch.get_num_threads()
    try:
        if place.type == "cpu":
            torch.set_num_threads(1)
        return [measure_row(name, run, quick=quick, progress=progress) for name in names]
    finally:
        torch.set_num_threads(threads)


def measure_row(
    name: str, run: Run, *, quick: bool = False, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """One measurement as a row."""
    if progress is not None:
        progress(name)
    row: dict[str, Any] = {"name": name, "value": None, "unit": "", "target": "", "ok": False, "detail": ""}
    row["quick"] = quick
    try:
        got = MEASUREMENTS[name](run)
    except Exception as error:  # the other measurements are still worth having
        error = missing_extra(error) or error
        return {**row, "detail": f"{type(error).__name__}: {message_of(error)}"}
    ok = got.target.met_by(got.value) and got.within
    return {
        **row,
        "value": float(got.value),
        "unit": got.unit,
        "target": str(got.target),
        "ok": ok,
        "detail": got.detail,
    }
