"""Runs on the `exact` task, whose updates take milliseconds, and what two of them must have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import MetricsFile

ROLLOUT = 16 * 10
CLOCK = ("time/fps", "time/time_elapsed", "time/iterations")  # of the sitting, not of the run


def config(out: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "task": "exact",
        "timesteps": 6 * ROLLOUT,
        "n_envs": 16,
        "algorithm": {"n_steps": 10},
        "kl_coef": {"value": 0.5, "target": 1.0, "horizon": 50},
        "out": str(out),
        "eval_episodes": 32,
        "eval_every": 2 * ROLLOUT,
        "save_every": 2 * ROLLOUT,
        "samples": 2,
    }
    return TrainConfig(**{**settings, **changes})


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = MetricsFile(folder / "metrics.jsonl").read()
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def board_steps(folder: Path, tag: str) -> list[int]:
    """The steps at which TensorBoard shows a metric."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in board.Scalars(tag)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / "model.safetensors") | load_file(folder / "value_head.safetensors")


def assert_same_run(first: Path, second: Path) -> None:
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name
    assert metrics(first) == metrics(second)
    assert (first / "samples.md").read_text() == (second / "samples.md").read_text()


def reward_file(tmp_path: Path, body: str) -> str:
    (tmp_path / "reward.py").write_text(
        f"calls = 0\ndef reward(prompts, completions, **columns):\n    global calls\n    calls += 1\n    {body}\n"
    )
    return f"{tmp_path / 'reward.py'}:reward"
