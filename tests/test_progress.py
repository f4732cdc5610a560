"""What is seen of a training run: a bar in a terminal, plain lines in a file, lines from `learn` in Python."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from stable_baselines3.common.logger import Logger

from textrl_agents.evaluation.heldout_env import sibling_env
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.runs.train import train
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.callbacks import Evaluations
from textrl_agents.sb3.progress import ProgressBar, ProgressLines
from textrl_agents.training.terminal import TrainingProgress, progress_text

N_ENVS, N_STEPS = 8, 9
ROLLOUT = N_ENVS * N_STEPS
LINE = re.compile(
    r"([\d,]+)/([\d,]+) tokens  \d+%  [\d,]+ tokens/s  \d+:\d\d:\d\d left  score -?\d+\.\d{3}  KL -?\d+\.\d\d"
)


def new_agent(algo: str = "ppo", **arguments: Any) -> Any:
    settings = {"n_steps": N_STEPS, "n_envs": N_ENVS} if algo != "dqn" else {"n_envs": N_ENVS}
    return make_agent(algo, seed=0, env_kwargs={"task": "exact"}, **{**settings, **arguments})


def tokens_of(text: str) -> list[int]:
    return [int(match[1].replace(",", "")) for match in LINE.finditer(text)]


@pytest.fixture
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is left out for coming too soon after the last one."""
    monkeypatch.setattr("textrl_agents.training.terminal.LINE_SECONDS", 0.0)
    monkeypatch.setattr("textrl_agents.training.terminal.REFRESH_SECONDS", 0.0)


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    text = progress_text(2_000, 10_000, 4.0, "score 1.000  KL 0.50")
    assert text == "2,000/10,000 tokens  20%  4 tokens/s  0:33:20 left  score 1.000  KL 0.50"
    assert progress_text(0, 10_000, 0.0) == "0/10,000 tokens  0%"  # nothing is known yet
    assert progress_text(120, 100, 4.0) == "120/100 tokens  120%  4 tokens/s  0:00:00 left"


def test_without_a_terminal_there_are_plain_lines(capfd: pytest.CaptureFixture[str], every_line: None) -> None:
    agent = new_agent(progress=False)
    with TrainingProgress() as progress:
        agent.learn(2 * ROLLOUT, callback=ProgressBar(progress))
    out, err = capfd.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert err.splitlines()[0] == f"0/{2 * ROLLOUT} tokens  0%"
    assert tokens_of(err)[-1] == 2 * ROLLOUT
    assert tokens_of(err) == sorted(tokens_of(err))


def test_lines_come_at_their_pace(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last always; between them none, in a run that is over before the next is due."""
    monkeypatch.setattr("textrl_agents.training.terminal.LINE_SECONDS", math.inf)
    agent = new_agent(progress=False)
    with TrainingProgress() as progress:
        agent.learn(4 * ROLLOUT, callback=ProgressBar(progress))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith(f"{4 * ROLLOUT}/{4 * ROLLOUT} tokens")


def test_evaluations_are_lines(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    agent = new_agent(progress=False)
    with TrainingProgress() as progress:
        evaluations = RunEvaluations(
            TrainConfig(eval_episodes=8), sibling_env(agent.env.env, 4), RunFolder(tmp_path), progress=progress
        )
        agent.learn(ROLLOUT, callback=[ProgressBar(progress), Evaluations(evaluations)])
    assert evaluations.after is not None
    err = capfd.readouterr().err
    assert "evaluating after 0 tokens ..." in err
    assert f"evaluation after {ROLLOUT} tokens: training prompts: score {evaluations.after['score']}" in err


def test_evaluations_do_not_count_as_slow_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("textrl_agents.training.terminal.time", SimpleNamespace(monotonic=lambda: clock.now))
    shown = io.StringIO()
    progress = TrainingProgress(console=Console(file=shown))
    progress.start(1_000, 3_000)
    clock.now += 50
    progress.evaluating()
    clock.now += 500
    progress.evaluated("score 1")
    clock.now += 50
    progress.advance(2_000)
    assert shown.getvalue().splitlines()[-1] == "2,000/3,000 tokens  67%  10 tokens/s  0:01:40 left"


def test_progress_that_is_switched_off_is_silent(
    capfd: pytest.CaptureFixture[str], every_line: None, tmp_path: Path
) -> None:
    agent = new_agent(progress=False)
    with TrainingProgress(enabled=False) as progress:
        evaluations = RunEvaluations(
            TrainConfig(eval_episodes=8), sibling_env(agent.env.env, 4), RunFolder(tmp_path), progress=progress
        )
        agent.learn(ROLLOUT, callback=[ProgressBar(progress), Evaluations(evaluations)])
    assert capfd.readouterr() == ("", "")


def test_progress_in_a_terminal_is_a_bar(every_line: None) -> None:
    screen = io.StringIO()
    agent = new_agent(progress=False)
    console = Console(file=screen, force_terminal=True, force_interactive=True, width=160)
    with TrainingProgress(console=console) as progress:
        agent.learn(2 * ROLLOUT, callback=ProgressBar(progress))
        progress._progress.refresh()
    shown = screen.getvalue()
    assert f"{2 * ROLLOUT}/{2 * ROLLOUT} tokens" in shown
    assert "KL" in shown
    assert "/s score" in shown
    assert not LINE.search(shown)


def test_a_run_shows_lines_in_a_file(tmp_path: Any, capfd: pytest.CaptureFixture[str], every_line: None) -> None:
    settings: dict[str, Any] = {"task": "exact", "n_envs": N_ENVS, "algorithm": {"n_steps": N_STEPS}}
    config = TrainConfig(**settings, timesteps=2 * ROLLOUT, eval_episodes=8, out=str(tmp_path / "run"))
    train(config)
    out, err = capfd.readouterr()
    assert out == ""
    assert tokens_of(err)[-1] == 2 * ROLLOUT
    assert "evaluation after 0 tokens: training prompts: score" in err


@pytest.mark.parametrize("algo", ["ppo", "rloo"])
def test_learn_tells_its_progress(algo: str, capfd: pytest.CaptureFixture[str]) -> None:
    agent = new_agent(algo)
    (output,) = agent.logger.output_formats
    assert isinstance(output, ProgressLines)
    output.seconds = 0.0
    agent.learn(3 * ROLLOUT)
    out, err = capfd.readouterr()
    assert out == ""
    assert tokens_of(err) == [ROLLOUT, 2 * ROLLOUT, 3 * ROLLOUT]


def test_learn_tells_the_first_and_the_last(capfd: pytest.CaptureFixture[str]) -> None:
    """Also of a second `learn`."""
    agent = new_agent()
    agent.logger.output_formats[0].seconds = math.inf
    agent.learn(4 * ROLLOUT)
    assert tokens_of(capfd.readouterr().err) == [ROLLOUT, 4 * ROLLOUT]
    agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert tokens_of(capfd.readouterr().err) == [6 * ROLLOUT]


@pytest.mark.parametrize(("algo", "tokens"), [("dqn", 400), ("q_learning", 4 * ROLLOUT)])
def test_agents_without_a_kl_tell_their_reward(algo: str, tokens: int, capfd: pytest.CaptureFixture[str]) -> None:
    agent = new_agent(algo)
    agent.logger.output_formats[0].seconds = math.inf
    agent.learn(tokens)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(re.search(r" left  reward -?\d+\.\d{3}$", line) for line in lines)


@pytest.mark.parametrize("arguments", [{"progress": False}, {"tensorboard_log": "board"}, {"verbose": 1}])
def test_learn_is_silenced_or_left_to_sb3(
    arguments: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = new_agent(**arguments)
    agent.learn(ROLLOUT)
    out, err = capfd.readouterr()
    assert "tokens/s" not in err
    assert ("ep_rew_mean" in out) == ("verbose" in arguments)
    assert any(tmp_path.glob("board/*/events*")) == ("tensorboard_log" in arguments)


def test_a_logger_and_callbacks_of_ones_own_work_beside_it(capfd: pytest.CaptureFixture[str]) -> None:
    agent, called = new_agent(), []
    agent.learn(ROLLOUT, callback=lambda found, _: called.append(found["self"].num_timesteps) or True)
    assert called[-1] == ROLLOUT
    assert "tokens/s" in capfd.readouterr().err
    agent.set_logger(Logger(None, []))
    agent.learn(ROLLOUT)
    assert capfd.readouterr().err == ""
