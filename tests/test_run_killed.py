"""Runs whose process is killed while it rewinds, writes `policy/` or ends: nothing is lost, nothing stale is used."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import killed_at
from safetensors.torch import load_file
from tiny_runs import ROLLOUT, assert_same_run, config, metrics

from textrl_agents.runs import train as training
from textrl_agents.runs.atomic import write_atomically
from textrl_agents.runs.logs import MetricsFile, SampleFile
from textrl_agents.runs.run_folder import RunFolder, load_policy
from textrl_agents.runs.train import resume, train
from textrl_env.errors import ConfigError
from textrl_env.models.storage.manifest import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(tmp_path_factory.mktemp("full") / "run", samples=1, eval_episodes=8)).folder


@pytest.fixture(scope="module")
def extended(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended") / "run"
    shutil.copytree(full, folder)
    return resume(folder, timesteps=8 * ROLLOUT).folder


def lines_until(folder: Path, tokens: int) -> list[dict[str, Any]]:
    return [line for line in metrics(folder) if line["time/total_timesteps"] <= tokens]


def test_a_text_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    file, seen = tmp_path / "config.yaml", []
    for moment in itertools.count(1):
        file.write_text("old")
        if not killed_at(moment, tmp_path, lambda: write_atomically(file, "new")):
            break
        seen.append(file.read_text())
    assert len(seen) >= 2
    assert set(seen) == {"old"}
    assert file.read_text() == "new"


def test_a_rewind_loses_nothing_that_is_before_the_newest_checkpoint(full: Path, tmp_path: Path) -> None:
    """CHECKS 55: 7 lines of metrics became 0 where the process was killed while it wrote them again."""
    samples = tmp_path / "samples.md"
    shutil.copy(full / "samples.md", samples)
    SampleFile(samples).rewind(4 * ROLLOUT)
    for moment in itertools.count(1):
        run = RunFolder(tmp_path / f"run{moment}")
        shutil.copytree(full, run.path)
        was_killed = killed_at(moment, run.path, lambda: training._rewind(run, 4 * ROLLOUT))  # noqa: B023
        tokens, newest = run.checkpoints()[-1]
        verify(newest)
        assert lines_until(run.path, tokens) == lines_until(full, tokens)
        assert run.samples.read_text() in ((full / "samples.md").read_text(), samples.read_text())
        assert torch.equal(
            load_policy(run.path).value_head.weight, load_policy(full / f"checkpoint-{tokens}").value_head.weight
        )
        if not was_killed:
            break
    assert moment > 10
    assert (tokens, metrics(run.path)) == (4 * ROLLOUT, lines_until(full, 4 * ROLLOUT))
    assert run.samples.read_text() == samples.read_text() != (full / "samples.md").read_text()


def test_samples_that_are_added_or_rewound_are_old_or_new(full: Path, tmp_path: Path) -> None:
    file, old = tmp_path / "samples.md", (full / "samples.md").read_text()
    for change in (
        lambda: SampleFile(file).add(9 * ROLLOUT, [], prompts="held-out prompts"),
        lambda: SampleFile(file).rewind(4 * ROLLOUT),
    ):
        for moment in itertools.count(1):
            file.write_text(old)
            if not killed_at(moment, tmp_path, change):
                break
            assert file.read_text() == old
        assert moment > 1
        assert file.read_text() != old


def test_a_policy_and_its_value_head_are_of_one_moment(full: Path, extended: Path, tmp_path: Path) -> None:
    """Weights of one policy with the value head of another would load, and judge states that it never saw."""
    older, newer = load_policy(full), load_policy(extended)
    for moment in itertools.count(1):
        run = RunFolder(tmp_path / f"run{moment}")
        shutil.copytree(full, run.path)
        for _, folder in run.checkpoints():
            shutil.rmtree(folder)
        was_killed = killed_at(moment, run.path, lambda: run.save_policy(newer, 8 * ROLLOUT))  # noqa: B023
        found = load_policy(run.path).state_dict()
        of_older, of_newer = (
            all(torch.equal(found[name], tensor) for name, tensor in core.state_dict().items())
            for core in (older, newer)
        )
        assert of_older != of_newer
        if not was_killed:
            break
    assert moment > 10
    assert of_newer


@pytest.mark.parametrize(
    "moment", [r"\.policy\.writing", r"rename .*\.policy\.writing", r"rename .*value_head", r"open .*curve\.png"]
)
def test_killed_after_the_last_checkpoint_resume_writes_what_is_missing(
    moment: str, full: Path, extended: Path, tmp_path: Path
) -> None:
    """CHECKS 55: such a run was "complete", and its policy the untrained one or the one before the extension."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(full, run.path)
    assert killed_at(moment, run.path, lambda: resume(run.path, timesteps=8 * ROLLOUT))
    assert run.checkpoints()[-1][0] == 8 * ROLLOUT
    newest = load_file(run.checkpoint(8 * ROLLOUT) / "policy" / "model.safetensors")
    for name, tensor in load_policy(run.path).model.state_dict().items():
        assert torch.equal(tensor, newest.get(name, tensor)), name
    finished = resume(run.path)
    assert (finished.finished, finished.timesteps) == (True, 8 * ROLLOUT)
    assert_same_run(run.path, extended)
    assert run.curve.is_file()
    with pytest.raises(ConfigError, match="is complete"):
        resume(run.path)


def test_killed_before_the_first_policy(full: Path, tmp_path: Path) -> None:
    settings = config(tmp_path / "run", samples=1, eval_episodes=8)
    assert killed_at(r"\.policy\.writing", tmp_path, lambda: train(settings))
    assert not (tmp_path / "run" / "policy").exists()
    assert resume(tmp_path / "run").timesteps == 6 * ROLLOUT
    assert_same_run(full, tmp_path / "run")


def test_metrics_are_whole_where_the_process_dies_in_a_rewind(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(7):
        file.add(step, {"score": step / 2})
    for moment in itertools.count(1):
        if not killed_at(moment, tmp_path, lambda: file.rewind(4)):
            break
        assert len(file.read()) == 7
    assert moment > 1
    assert len(file.read()) == 5
