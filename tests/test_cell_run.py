"""Training runs of algorithms without checkpoints: one call of their train function, in a run folder like any other."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from textrl_agents.algorithms import registry
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.built_in import reference
from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.registry import register_algorithm
from textrl_agents.cli import app
from textrl_agents.commands.train import exit_if_stopped
from textrl_agents.runs.cell_run import CellRun
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_folder import RunFolder, load_policy
from textrl_agents.runs.train import RunResult, resume, train
from textrl_env.errors import ConfigError, UnknownName

FILES = {"config.yaml", "metrics.jsonl", "curve.png", "samples.md"}
POLICY = {"policy", "value_head.safetensors"}


def config(out: Path, algo: str, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"task": "exact", "timesteps": 300, "eval_episodes": 16, "device": "cpu"}
    return TrainConfig(algo=algo, out=str(out), **{**settings, **changes})


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.parametrize(
    "algo",
    [
        "reference",
        "best_of_n",
        "expert_iteration",
        "dqn",
        "soft_dqn",
        *(pytest.param(f"trl_{name}", marks=pytest.mark.slow) for name in ("rloo", "gspo", "online_dpo", "dpo", "kto")),
    ],
)
def test_a_run_folder_whose_policy_is_evaluated_and_sampled_again(algo: str, tmp_path: Path) -> None:
    timesteps = 1200 if algo in ("trl_dpo", "trl_kto") else 300  # pairs need responses that differ
    result = train(config(tmp_path / "run", algo, timesteps=timesteps), progress=False)
    assert result.finished
    assert written(result.folder) == FILES | POLICY
    lines = MetricsFile(result.folder / "metrics.jsonl").read()
    evaluated = [line["eval_train/score"] for line in lines if "eval_train/score" in line]
    assert result.before is not None
    assert result.after is not None
    assert evaluated == [result.before["score"].mean, result.after["score"].mean]
    assert [line["time/total_timesteps"] for line in lines][-1] == result.timesteps
    assert (result.folder / "samples.md").read_text().count("## After ") == 2
    arguments = ["eval", str(result.folder), "--episodes", "16", "--json", "--device", "cpu"]
    again = CliRunner().invoke(app, arguments)
    assert f'"mean": {result.after["score"].mean}' in again.output, again.output


def test_a_table_is_no_policy_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(config(tmp_path / "run", "q_learning"), progress=False)
    assert written(result.folder) == FILES
    assert "no policy/, since what q_learning trains is no model that can be saved" in capsys.readouterr().err
    for command in (["eval", str(result.folder)], ["generate", str(result.folder), "--prompt", "a"]):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 2
        assert "what it trained is no model that can be saved, such as a table" in " ".join(shown.output.split())


def test_best_of_n_answers_in_its_own_way(tmp_path: Path) -> None:
    folder = train(config(tmp_path / "run", "best_of_n", algorithm={"n": 3}), progress=False).folder
    assert "those of best_of_n, the best of n samples" in (folder / "samples.md").read_text()
    assert "best_of_n" in MetricsFile(folder / "metrics.jsonl").read()[-1]["eval/answers"]
    refused = CliRunner().invoke(app, ["generate", str(folder), "--prompt", "a"])
    assert refused.exit_code == 2
    assert "best_of_n answers in a way of its own" in refused.output
    plain = CliRunner().invoke(app, ["generate", str(folder / "policy"), "--prompt", "a", "--max-new-tokens", "3"])
    assert plain.exit_code == 0, plain.output
    refused = CliRunner().invoke(app, ["eval", str(folder), "--greedy"])
    assert "--greedy has no meaning for best_of_n" in refused.output


def test_the_tuned_settings_are_in_the_config(tmp_path: Path) -> None:
    settings = config(tmp_path, "expert_iteration", algorithm={"n": 2}).resolved()
    assert settings.algorithm == {
        "rounds": 2,
        "n": 2,
        "epochs": 2,
        "learning_rate": {"scale": 1.0},
    }
    assert (settings.eval_every, settings.save_every, settings.n_envs) == (0, 0, None)
    assert config(tmp_path, "ppo").resolved().algorithm == {}, "with checkpoints a run has the library's defaults"


@pytest.mark.parametrize("given", [{"task": "exact_turns"}, {"env": {"turns": "guess"}}])
@pytest.mark.parametrize("algo", ["grpo", "dpo"])
def test_trl_refuses_several_turns_before_anything_is_written(algo: str, given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{algo.upper()} trains single responses.*several turns"):
        train(config(tmp_path / "run", algo, lib="trl", **given), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_every": 100}, "save_every must be 0 or left out: best_of_n has no checkpoints"),
        ({"eval_every": 100}, "eval_every must be 0 or left out: best_of_n is evaluated before and after"),
        ({"n_envs": 8}, "n_envs must be left out: best_of_n has settings of its own"),
        ({"algorithm": {"m": 1}}, "unknown setting of best_of_n 'm'"),
        ({"algorithm": {"n": 0}}, "n must be a whole number >= 1"),
        ({"algo": "sarsa", "task": "sentiment"}, "sarsa runs on exact alone, not on 'sentiment'"),
        ({"algo": "dqn", "algorithm": {"trian_freq": 1}}, "unknown argument of dqn 'trian_freq'"),
        ({"algo": "trl_rloo", "algorithm": {"betta": 1}}, "unknown setting of trl_rloo 'betta'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"algo": "best_of_n", **changes}
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path / "run", **settings), progress=False)
    assert not (tmp_path / "run").exists() or written(tmp_path / "run") == set()


def test_a_run_that_is_stopped_ends_at_the_next_record(tmp_path: Path) -> None:
    run = CellRun(config(tmp_path / "run", "expert_iteration").resolved())
    (tmp_path / "run").mkdir()
    run.start(RunFolder(tmp_path / "run"))
    asked: list[bool] = []

    def second_time() -> bool:
        asked.append(True)
        return len(asked) > 1

    assert run.learn(stop_requested=second_time) is False
    assert run.actor_critic is None
    scores = [line for line in MetricsFile(tmp_path / "run" / "metrics.jsonl").read() if "objective/scores" in line]
    assert [line["time/total_timesteps"] for line in scores] == [run.timesteps]


def test_what_a_stopped_run_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(config(tmp_path, "best_of_n").resolved().to_yaml())
    stopped = RunResult(tmp_path, 100, False, signal.SIGINT, None, None, 1.0)
    with pytest.raises(typer.Exit) as ended:
        exit_if_stopped(stopped)
    assert ended.value.exit_code == 130
    assert "after 100 tokens; best_of_n has no checkpoints, so the run cannot go on" in capsys.readouterr().err


def test_there_is_no_resume(tmp_path: Path) -> None:
    folder = train(config(tmp_path / "run", "reference"), progress=False).folder
    with pytest.raises(ConfigError, match=r"reference has no checkpoints: .* start a new one with another --out"):
        resume(folder)


def test_an_algorithm_of_the_users_own(tmp_path: Path) -> None:
    """Its run has its settings, its curve and its policy; a policy that is no model of ours is not saved."""
    seen: list[Cell] = []

    def mine(cell: Cell, record: Record) -> Trained:
        seen.append(cell)
        record(10, score=float(np.random.rand()), kl=None, length=2.0)
        return reference.train(Cell("reference", cell.task, cell.seed, 1, env=cell.env, device=cell.device), record)

    def foreign(cell: Cell, record: Record) -> Trained:
        trained = mine(cell, record)
        return Trained(trained.policy, 0, evaluation=lambda env, episodes, seed: trained.evaluate(env, episodes, seed))

    register_algorithm(Algorithm("mine", mine, settings={"rows": 8, "rate": 1}))
    register_algorithm(Algorithm("foreign", foreign))
    result = train(config(tmp_path / "mine", "mine", algorithm={"rate": 2}, kl_coef=0.3), progress=False)
    assert (seen[0].settings, seen[0].budget, seen[0].env["kl_coef"]) == ({"rows": 8, "rate": 2}, 300, 0.3)
    assert load_policy(result.folder, device="cpu").value_trunk
    assert written(train(config(tmp_path / "foreign", "foreign"), progress=False).folder) == FILES


def test_the_library_may_be_left_out(tmp_path: Path) -> None:
    assert config(tmp_path, "dpo").resolved().lib == "trl"
    assert config(tmp_path, "ppo").resolved().lib == "sb3"
    assert config(tmp_path, "ppo", lib="rllib").resolved().lib == "rllib"
    assert config(tmp_path, "best_of_n").resolved().lib is None
    with pytest.raises(UnknownName, match="unknown algorithm 'best_of_n'"):
        config(tmp_path, "best_of_n", lib="sb3").resolved()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["trl_kto", "trl_online_dpo", "trl_dapo"])
def test_the_command_trains_with_trl(algo: str, tmp_path: Path) -> None:
    """From the command to a folder whose policy has learned."""
    out = str(tmp_path / "run")
    arguments = [
        "train",
        "--lib",
        "trl",
        "--algo",
        algo.removeprefix("trl_"),
        "--task",
        "exact",
        "--timesteps",
        "16000",
    ]
    shown = CliRunner().invoke(app, [*arguments, "--out", out, "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    lines = MetricsFile(tmp_path / "run" / "metrics.jsonl").read()
    returns = [line["eval_train/penalized_return"] for line in lines if "eval_train/penalized_return" in line]
    assert returns[-1] > returns[0] + 0.2
    refused = CliRunner().invoke(app, ["train", "--resume", out])
    assert refused.exit_code == 2
    assert "has no checkpoints" in refused.output
