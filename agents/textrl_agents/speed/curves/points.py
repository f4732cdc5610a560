"""The points of the cost curves, each measured: stock PPO on random Llamas, one thing changed at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from textrl_agents.speed.random_llama import LlamaSize, llama_phases
from textrl_agents.speed.rooflines.model_costs import matrix_shapes
from textrl_agents.speed.rooflines.peaks import Peaks, measure_peaks
from textrl_agents.speed.rooflines.ppo_bounds import time_ppo
from textrl_env.models.storage.loading import resolve_device
from textrl_env.user_values import check_whole

# From 1 to 112 million parameters.
SIZES = (
    LlamaSize(64, 2, 1, 1),
    LlamaSize(128, 4, 2, 2),
    LlamaSize(256, 8, 4, 4),
    LlamaSize(512, 12, 8, 8),
    LlamaSize(768, 14, 12, 12),
)
MIDDLE = SIZES[2]  # of the other curves, 10 million
ROWS = (1, 4, 16, 64)
LENGTHS = (8, 32, 128, 512)


class Setting(NamedTuple):
    """What a point is measured with."""

    size: LlamaSize
    rows: int
    tokens: int


class Curve(NamedTuple):
    """One thing changed: `name` says which, and `fixed` what the others are."""

    name: str
    fixed: str
    settings: tuple[Setting, ...]


class Point(NamedTuple):
    """What a token costs in one setting: medians in microseconds, and the least that the measured peaks allow."""

    curve: str
    parameters: int
    rows: int
    tokens: int
    rollout: float
    update: float
    rollout_bound: float
    update_bound: float
    dtype: str  # of the products


def cost_curves(*, quick: bool = False) -> tuple[Curve, ...]:
    """Return the curves. quick: their two cheapest points alone."""
    count = 2 if quick else None
    sizes, rows, lengths = SIZES[:count], ROWS[:count], LENGTHS[:count]
    middle, named = (SIZES[0], "1M") if quick else (MIDDLE, "10M")
    return (
        Curve("model size", "16 rows, responses of 16 tokens", tuple(Setting(size, 16, 16) for size in sizes)),
        Curve("rows", f"{named} parameters, responses of 32 tokens", tuple(Setting(middle, n, 32) for n in rows)),
        Curve("response length", f"{named} parameters, 8 rows", tuple(Setting(middle, 8, n) for n in lengths)),
    )


def measure_points(
    curves: Sequence[Curve],
    *,
    device: str | torch.device = "auto",
    repeats: int = 3,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Point]:
    """Measure every point of `curves`, medians over `repeats` rollouts and updates after one that is not counted.

    device: as for `load_model`. threads: of torch on a CPU; None leaves them as they are. progress: called with each
    point's name when it starts. Raises ConfigError.
    """
    check_whole("repeats", repeats, 1)
    place = resolve_device(device)
    before = torch.get_num_threads()
    try:
        if threads is not None:
            check_whole("threads", threads, 1)
            torch.set_num_threads(threads)
        points: list[Point] = []
        peaks: dict[LlamaSize, Peaks] = {}  # measured once a size, so that one busy moment bends no roofline
        for curve in curves:
            for setting in curve.settings:
                if progress is not None:
                    size = f"width {setting.size.width}, {setting.size.layers} layers"
                    progress(f"{curve.name}: {size}, {setting.rows} rows, {setting.tokens} tokens")
                points.append(_measure(curve.name, setting, place, repeats, peaks))
                gc.collect()  # an agent and its environment refer to each other, and the next model may be large
        return points
    finally:
        torch.set_num_threads(before)


def _measure(curve: str, setting: Setting, device: torch.device, repeats: int, peaks: dict[LlamaSize, Peaks]) -> Point:
    phases = llama_phases(setting.size, rows=setting.rows, tokens=setting.tokens, device=device)
    agent: Any = phases.agent
    policy = agent.policy.actor_critic
    if setting.size not in peaks:
        peaks[setting.size] = measure_peaks(matrix_shapes(policy), policy.lm.dtype, device)
    times = time_ppo(phases, peaks[setting.size], repeats=repeats, device=device)
    microseconds = 1e6 / times.tokens
    return Point(
        curve,
        parameters=sum(weight.numel() for weight in policy.model.parameters()),
        rows=setting.rows,
        tokens=setting.tokens,
        rollout=times.rollout * microseconds,
        update=times.update * microseconds,
        rollout_bound=times.rollout_bound * microseconds,
        update_bound=times.update_bound * microseconds,
        dtype=str(policy.lm.dtype).removeprefix("torch."),
    )
