"""`textrl train --lib rllib`: the same run folder as SB3's, and runs that go on exactly where they stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import board_steps

from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_folder import RunFolder, load_policy
from textrl_agents.runs.train import resume, train
from textrl_env.errors import ConfigError, RewardError, UnknownName

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SETTINGS: dict[str, Any] = {
    "lib": "rllib",
    "task": "exact",
    "timesteps": 1600,
    "n_envs": 16,
    "eval_every": 800,
    "eval_episodes": 16,
    "save_every": 800,
    "keep_checkpoints": 5,
    "samples": 2,
    "device": "cpu",
    "algorithm": {"rollout_fragment_length": 20, "num_epochs": 2},
}


def settings(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.of(SETTINGS, {"out": str(out)}, changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {**load_file(run / "policy" / "model.safetensors"), **load_file(run / "value_head.safetensors")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    out = tmp_path_factory.mktemp("rllib") / "run"
    result = train(settings(out), progress=False)
    assert result.finished
    assert result.timesteps >= 1600
    return out


def lines(run: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("time/fps", "time/time_elapsed")}
        for line in MetricsFile(run / "metrics.jsonl").read()
    ]


def test_the_folder_is_that_of_any_run(finished: Path) -> None:
    run = RunFolder(finished)
    assert run.policy.is_dir()
    assert run.curve.is_file()
    assert run.samples.read_text().count("## After") == 3
    assert list(finished.glob("events.out.tfevents.*"))
    assert len(run.checkpoints()) == 2
    assert load_policy(finished).max_length == 6
    assert not list(finished.rglob("*.pkl"))
    assert not list(finished.rglob("*.pickle"))
    logged = {name for line in lines(finished) for name in line}
    wanted = "objective/kl objective/scores objective/rlhf_reward objective/entropy objective/kl_coef"
    wanted += " rollout/ep_rew_mean rollout/ep_len_mean rollout/episodes rollout/eos_share train/approx_kl train/loss"
    wanted += " train/value_loss train/learning_rate train/explained_variance"
    wanted += " eval_train/score eval_train/kl eval_train/kl_ci95"
    assert set(wanted.split()) <= logged


def test_the_same_seed_gives_the_same_curve(finished: Path, tmp_path: Path) -> None:
    train(settings(tmp_path / "again"), progress=False)
    assert lines(tmp_path / "again") == lines(finished)
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(tmp_path / "again")[name], tensor), name


def test_resumed_from_the_middle_it_ends_the_same(finished: Path, tmp_path: Path) -> None:
    """CHECKS 32, with episodes in flight, an evaluation at the boundary and the schedule's place."""
    shutil.copytree(finished, tmp_path / "run")
    middle, _ = RunFolder(tmp_path / "run").checkpoints()[0]
    assert 0 < middle < 1600
    resume(tmp_path / "run" / f"checkpoint-{middle}", progress=False)
    assert lines(tmp_path / "run") == lines(finished)
    assert board_steps(tmp_path / "run", "objective/kl") == board_steps(finished, "objective/kl")
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(tmp_path / "run")[name], tensor), name


def test_resumed_in_mid_dialogue_it_ends_the_same(tmp_path: Path) -> None:
    """Fragments of 4 tokens cut every episode: turn environments and what was said in them come from the checkpoint."""
    changes = {"task": "exact_turns", "timesteps": 256, "save_every": 128, "eval_every": 0, "eval_episodes": 0}
    whole = settings(tmp_path / "whole", **changes, samples=0, algorithm={"rollout_fragment_length": 4})
    train(whole, progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    middle, checkpoint = RunFolder(tmp_path / "run").checkpoints()[0]
    assert 0 < middle < 256
    resume(checkpoint, progress=False)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "run")[name], tensor), name


def test_what_was_not_written_at_the_end_is_written_by_resume(finished: Path, tmp_path: Path) -> None:
    """CHECKS 55: killed between the last checkpoint and `policy/`."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "policy")
    assert resume(tmp_path / "run", progress=False).finished
    assert lines(tmp_path / "run") == lines(finished)
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(tmp_path / "run")[name], tensor), name
    with pytest.raises(ConfigError, match="is complete"):
        resume(tmp_path / "run", progress=False)


def test_it_says_the_least_that_it_trains_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(settings(tmp_path / "run", timesteps=1, eval_episodes=0, samples=0), progress=False)
    assert "a rollout is 320 tokens, so the run trains on at least 320 instead of 1" in capsys.readouterr().err
    assert 320 <= result.timesteps < 640


def test_stopped_early_it_goes_on(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textrl_agents.rllib.run import RLlibRun
    from textrl_agents.runs import train as training

    learn = RLlibRun.learn

    def stopped(self: RLlibRun, **kwargs: Any) -> bool:
        return learn(self, progress=kwargs["progress"], stop_requested=lambda: self.timesteps >= 400)

    monkeypatch.setattr(training.StopSignals, "received", 2, raising=False)
    monkeypatch.setattr(RLlibRun, "learn", stopped)
    result = train(settings(tmp_path / "run"), progress=False)
    assert not result.finished
    assert 400 <= result.timesteps < 800
    monkeypatch.undo()
    assert resume(tmp_path / "run", progress=False).finished
    assert lines(tmp_path / "run") == lines(finished)


def test_a_failing_reward_saves_what_was_learned(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text(
        "CALLS = []\n\n\ndef judge(prompts, completions, **columns):\n    CALLS.append(1)\n"
        "    if len(CALLS) > 3:\n        raise ValueError('the judge went home')\n"
        "    return [0.0] * len(completions)\n"
    )
    config = settings(tmp_path / "run", reward=f"{file}:judge", eval_episodes=0)
    with pytest.raises(RewardError, match="the judge went home") as caught:
        train(config, progress=False)
    run = RunFolder(tmp_path / "run")
    assert run.checkpoints()
    assert "--resume" in "".join(caught.value.__notes__)


def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UnknownName, match="Did you mean 'impala'"):
        train(settings(out, algo="impalla"), progress=False)
    with pytest.raises(UnknownName, match="Did you mean 'minibatch_size'"):
        train(settings(out, algorithm={"minibatchsize": 3}), progress=False)
    with pytest.raises(ConfigError, match=r"algorithm\.seed is decided by the run"):
        train(settings(out, algorithm={"seed": 3}), progress=False)
    with pytest.raises(ConfigError, match=r"algorithm\.ray takes arguments of Ray, such as .* got 2"):
        train(settings(out, algorithm={"ray": 2}), progress=False)
    with pytest.raises(UnknownName, match=r"unknown argument of Ray 'cpus'\. Did you mean 'num_cpus'"):
        train(settings(out, algorithm={"ray": {"cpus": 2}}), progress=False)
    with pytest.raises(ConfigError, match="a learning rate takes either peak or scale"):
        train(settings(out, algorithm={"lr": {"top": 3}}), progress=False)
    assert not out.exists()


def test_evaluations_charge_the_coefficient_that_training_has_reached(tmp_path: Path) -> None:
    adaptive = {"value": 0.5, "target": 0.1, "horizon": 200}
    train(settings(tmp_path / "run", kl_coef=adaptive, timesteps=800, eval_every=0, save_every=0), progress=False)
    *_, trained, evaluated = lines(tmp_path / "run")
    assert trained["objective/kl_coef"] != pytest.approx(0.5, abs=0.01)
    charged = (evaluated["eval_train/score"] - evaluated["eval_train/penalized_return"]) / evaluated["eval_train/kl"]
    assert charged == pytest.approx(trained["objective/kl_coef"], rel=1e-5)


def test_after_an_update_an_error_saves_no_older_boundary(tmp_path: Path) -> None:
    """A batch of several fragments: the weights of one checkpoint must not carry the count of another."""
    file = tmp_path / "judge.py"
    file.write_text(
        "CALLS = []\n\n\ndef judge(prompts, completions, **columns):\n    CALLS.append(1)\n"
        "    if len(CALLS) > 3:\n        raise ValueError('the judge went home')\n"
        "    return [0.0] * len(completions)\n"
    )
    algorithm = {**SETTINGS["algorithm"], "min_sample_timesteps_per_iteration": 100_000}
    config = settings(tmp_path / "run", reward=f"{file}:judge", eval_episodes=0, algorithm=algorithm)
    with pytest.raises(RewardError, match="the judge went home"):
        train(config, progress=False)
    assert not RunFolder(tmp_path / "run").checkpoints()
