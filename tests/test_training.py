"""Runs from settings to a folder, stopped and resumed; on the `exact` task, whose updates take milliseconds."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quick
from tiny_runs import ROLLOUT, assert_same_run, board_steps, config, metrics, reward_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_folder import RunFolder, load_policy
from textrl_agents.runs.train import resume, train
from textrl_agents.sb3.callbacks import RLHFMetrics
from textrl_agents.training.settings_file import read_settings
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, ModelError, RewardRaised, TextRLError, UnknownName


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(config(tmp_path_factory.mktemp("full") / "run"))


def test_a_run_folder_holds_everything(full: Any) -> None:
    names = {path.name for path in full.folder.iterdir()}
    assert {name for name in names if not name.startswith("events.out.tfevents")} == {
        ".lock",
        "policy",
        "value_head.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "curve.png",
        "samples.md",
        f"checkpoint-{4 * ROLLOUT}",
        f"checkpoint-{6 * ROLLOUT}",
    }
    assert len(names) == 10  # and TensorBoard's events
    assert not (full.folder / "policy" / "value_head.safetensors").exists()  # one copy
    assert (full.timesteps, full.finished, full.stopped_by) == (6 * ROLLOUT, True, None)
    assert TrainConfig.of(read_settings(full.folder / "config.yaml")) == config(full.folder).resolved()
    assert (full.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (full.folder / "samples.md").read_text().count("## After") == 4


def test_metrics_have_the_names_of_sb3_and_trl(full: Any) -> None:
    lines = metrics(full.folder)
    rollouts = [line for line in lines if "objective/kl" in line]
    evaluations = [line for line in lines if "eval_train/score" in line]
    assert [line["time/total_timesteps"] for line in rollouts] == [ROLLOUT * n for n in range(1, 7)]
    assert [line["time/total_timesteps"] for line in evaluations] == [ROLLOUT * n for n in (0, 2, 4, 6)]
    assert {"objective/scores", "objective/rlhf_reward", "objective/entropy", "rollout/ep_rew_mean"} <= rollouts[
        0
    ].keys()
    assert "train/approx_kl" in evaluations[-1]  # also of the last update
    assert evaluations[0]["eval_train/score"] == full.before["score"].mean
    assert evaluations[-1]["eval_train/score"] == full.after["score"].mean


def test_plain_transformers_loads_the_policy(full: Any) -> None:
    """CHECKS 42."""
    model = AutoModelForCausalLM.from_pretrained(full.folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(full.folder / "policy")
    ids = torch.tensor([tokenizer("abc")["input_ids"]])
    core = load_policy(full.folder)
    with torch.no_grad():
        expected = core.lm.project(core.lm.hidden(ids))
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_load_policy_finds_the_value_head_and_checkpoints(full: Any, tmp_path: Path) -> None:
    core = load_policy(full.folder)
    assert core.value_head.weight.abs().sum() > 0
    last = load_policy(full.folder / f"checkpoint-{6 * ROLLOUT}")
    for name, tensor in core.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name]), name
    stopped = tmp_path / "stopped"
    shutil.copytree(full.folder, stopped)
    shutil.rmtree(stopped / "policy")
    assert torch.equal(load_policy(stopped).value_head.weight, core.value_head.weight)
    for checkpoint in RunFolder(stopped).checkpoints():
        shutil.rmtree(checkpoint[1])
    with pytest.raises(ModelError, match=r"has neither policy/ nor a checkpoint"):
        load_policy(stopped)
    with pytest.raises(ModelError, match="is not a folder"):
        load_policy(tmp_path / "none")


def test_the_same_settings_twice_are_the_same_run(full: Any, tmp_path: Path) -> None:
    """CHECKS 31."""
    again = train(config(tmp_path / "run"))
    assert_same_run(full.folder, again.folder)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("steps", quick([25], [1, 25]))
def test_a_signal_saves_and_resume_goes_on_exactly(
    kind: signal.Signals, steps: int, full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """CHECKS 32, 39: stopped in the first rollout and in the third; the resumed run is the one never stopped."""
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(RLHFMetrics, "_on_step", lambda self: self.n_calls != steps or os.kill(os.getpid(), kind) is None)
        stopped = train(config(tmp_path / "run"))
    assert (stopped.finished, stopped.stopped_by) == (False, kind)
    assert stopped.timesteps == steps // 10 * ROLLOUT
    assert f"{kind.name}: saving a checkpoint" in capsys.readouterr().err
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
    resumed = resume(tmp_path / "run")
    assert (resumed.finished, resumed.timesteps) == (True, 6 * ROLLOUT)
    assert_same_run(full.folder, resumed.folder)


def test_resume_from_an_older_checkpoint_repeats_what_came_after(full: Any, tmp_path: Path) -> None:
    """CHECKS 35: the newest checkpoint is broken and named; the one before leads to the same end."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(full.folder, run.path)
    config_text = run.config.read_text().replace(f"timesteps: {6 * ROLLOUT}", f"timesteps: {7 * ROLLOUT}")
    broken = run.checkpoint(6 * ROLLOUT) / "optimizer.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    before = run.metrics.read_text()
    run.config.write_text(config_text)
    with pytest.raises(ModelError, match=rf"checkpoint-{6 * ROLLOUT}/optimizer\.safetensors is damaged"):
        resume(run.path)
    assert run.metrics.read_text() == before  # nothing was lost by trying
    run.config.write_text(config_text.replace(f"timesteps: {7 * ROLLOUT}", f"timesteps: {6 * ROLLOUT}"))
    resume(run.checkpoint(4 * ROLLOUT))
    assert_same_run(full.folder, run.path)
    for tag in ("rollout/ep_rew_mean", "objective/kl"):  # what the earlier sitting logged is not shown twice
        assert board_steps(run.path, tag) == board_steps(full.folder, tag), tag
    assert [tokens for tokens, _ in run.checkpoints()] == [4 * ROLLOUT, 6 * ROLLOUT]


def test_a_finished_run_can_be_made_longer(full: Any, tmp_path: Path) -> None:
    shutil.copytree(full.folder, tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"is complete: {6 * ROLLOUT} of {6 * ROLLOUT} tokens"):
        resume(tmp_path / "run")
    longer = resume(tmp_path / "run", timesteps=8 * ROLLOUT)
    assert longer.timesteps == 8 * ROLLOUT
    assert read_settings(tmp_path / "run" / "config.yaml")["timesteps"] == 8 * ROLLOUT
    steps = [line["time/total_timesteps"] for line in metrics(longer.folder) if "objective/kl" in line]
    assert steps == [ROLLOUT * n for n in range(1, 9)]


def test_a_run_stopped_before_its_first_checkpoint_starts_again(full: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config(tmp_path / "run").resolved().to_yaml())
    (tmp_path / "run" / "metrics.jsonl").write_text('{"time/total_timesteps": 0, "eval_train/score": 9}\n{"torn')
    assert_same_run(full.folder, resume(tmp_path / "run").folder)


def test_a_folder_that_holds_a_run_is_refused(full: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run: continue it with --resume .*, or"):
        train(config(full.folder))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; a run needs a folder"):
        train(config(tmp_path / "file"))
    with pytest.raises(ConfigError, match="is neither a run folder"):
        resume(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"algo": "pppo"}, UnknownName, r"unknown algorithm 'pppo'. Did you mean 'ppo'\?"),
        ({"algorithm": {"n_step": 3}}, UnknownName, r"unknown argument of ppo 'n_step'. Did you mean 'n_steps'\?"),
        ({"algorithm": {"seed": 3}}, UnknownName, "unknown argument of ppo 'seed'"),
        (
            {"algorithm": {"learning_rate": {"peek": 1}}},
            ConfigError,
            "a learning rate takes either peak or scale",
        ),
        ({"device": "gpu"}, UnknownName, "unknown device 'gpu'"),
        ({"dtype": "float8"}, UnknownName, "unknown dtype 'float8'"),
        ({"reward": "sentimint"}, UnknownName, "unknown reward 'sentimint'"),
        ({"model": "./none"}, ModelError, "model folder none does not exist"),
        ({"env": {"kl_mode": "never"}}, UnknownName, "unknown kl_mode 'never'"),
    ],
)
def test_mistakes_leave_nothing_behind(changes: dict, error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        train(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_failing_reward_leaves_a_checkpoint(tmp_path: Path) -> None:
    """CHECKS 18, 21: what was trained before the failure is kept, and the error says how to go on."""
    body = "return [float(len(text)) / (0 if calls > 3 else 1) for text in completions]"
    with pytest.raises(RewardRaised, match="division by zero") as caught:
        train(config(tmp_path / "run", reward=reward_file(tmp_path, body), eval_episodes=0))
    saved = RunFolder(tmp_path / "run").checkpoints()
    assert saved
    assert saved[-1][0] > 0
    assert (
        f"Continue from checkpoint-{saved[-1][0]} with: textrl train --resume {tmp_path / 'run'} --trust"
        in caught.value.__notes__[0]
    )
    load_policy(tmp_path / "run")


def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHECKS 38: in an update, when weights may be half-way; the last checkpoint is usable."""
    from stable_baselines3 import PPO

    original = PPO.train

    def train_until_full(self: Any) -> None:
        if self.num_timesteps > 3 * ROLLOUT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(self)

    monkeypatch.setattr(PPO, "train", train_until_full)
    with pytest.raises(TextRLError, match=rf"Lower algorithm\.batch_size.*Continue from checkpoint-{2 * ROLLOUT}"):
        train(config(tmp_path / "run", eval_episodes=0))
    monkeypatch.undo()
    assert resume(tmp_path / "run").finished


def test_lr_mapping_lora_and_custom_prompts(tmp_path: Path) -> None:
    result = train(
        config(
            tmp_path / "run",
            timesteps=2 * ROLLOUT,
            algorithm={"n_steps": 10, "learning_rate": {"peak": 1e-2, "warmup": 0.1, "final": 0.5}},
            env={"prompts": ["b"], "max_new_tokens": 3},
            algo="a2c",
        )
    )
    assert {episode.prompt for episode in result.after.episodes} == {"b"}  # no others are held out
    assert result.after["length"].mean <= 3
    rates = [line["train/learning_rate"] for line in metrics(result.folder) if "train/learning_rate" in line]
    assert rates[-1] == pytest.approx(5e-3)


def test_without_evaluation_there_is_still_a_curve(tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", eval_episodes=0, save_every=0, timesteps=ROLLOUT))
    assert (result.before, result.after) == (None, None)
    assert (result.folder / "curve.png").is_file()
    assert not (result.folder / "samples.md").exists()
    assert "train/approx_kl" in metrics(result.folder)[-1]
    assert [tokens for tokens, _ in RunFolder(result.folder).checkpoints()] == [ROLLOUT]


def test_metrics_file_skips_what_json_cannot_hold(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.add(3, {"nan": float("nan"), "array": torch.zeros(3), "scalar": torch.tensor(2.0), "text": "x"})
    assert json.loads(file.path.read_text()) == {"time/total_timesteps": 3, "nan": None, "scalar": 2.0, "text": "x"}
    file.add(5, {"a": 1})
    file.rewind(4)
    assert [line["time/total_timesteps"] for line in file.read()] == [3]


def test_configs_compare_by_value(tmp_path: Path) -> None:
    assert config(tmp_path) == dataclasses.replace(config(tmp_path))


@pytest.mark.parametrize("lib", ["sb3", "rllib"])
def test_a_run_is_not_evaluated_on_prompts_that_it_trains_on(lib: str, tmp_path: Path) -> None:
    settings = config(tmp_path / "run", lib=lib, task="sentiment", algorithm={}).resolved()
    if lib == "sb3":
        from textrl_agents.sb3.run import SB3Run

        run: Any = SB3Run(settings)
        evaluated = run._eval_env.prompts
    else:
        pytest.importorskip("ray.rllib")
        from textrl_agents.rllib.run import RLlibRun

        run = RLlibRun.__new__(RLlibRun)  # the algorithm, which starts Ray, has no part in it
        run.config = settings
        evaluated = run._make_eval_env().prompts
    trained = TextGenVectorEnv(1, **settings.env_arguments()).prompts
    texts = [{prompts[place].text for place in range(len(prompts))} for prompts in (trained, evaluated)]
    assert min(map(len, texts)) > 8
    assert not texts[0] & texts[1]
