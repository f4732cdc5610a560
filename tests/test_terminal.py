"""CHECKS 57: escape sequences that a prompt, a model, a reward or a file wrote never reach a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hang_guard import HANG
from rich.console import Console
from test_cli import RUN, textrl

import textrl_agents.evaluation.generation
from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark import cell_progress
from textrl_agents.benchmark.cell_progress import CellProgress
from textrl_agents.check.self_check import CheckResult
from textrl_agents.evaluation import Evaluation
from textrl_agents.evaluation.tables import sample_table
from textrl_agents.runs.logs import SampleFile
from textrl_env import TextGenEnv
from textrl_env.foreign_text import CONTROLS
from textrl_env.tasks import Task
from textrl_env.trajectory import Trajectory

# Clear the screen, set its title, an 8-bit "CSI", turn the reading direction around, and what no encoding has.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\u202e\ud800 [bold red]"
AS_TEXT = r"\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\u202e\ud800 [bold red]"
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # what this package and rich write themselves


def clean(output: str) -> str:
    """`output` without our own colours; nothing in it may be obeyed by a terminal."""
    plain = STYLE.sub("", output)
    assert not CONTROLS.search(plain), ascii(plain)
    return plain


@pytest.fixture
def hostile_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers every prompt of `textrl generate` with HOSTILE."""

    def sample(policy: Any, prompts: list[str], **settings: Any) -> list[Trajectory]:
        return [hostile_episode(prompt) for prompt in prompts]

    monkeypatch.setattr(textrl_agents.evaluation.generation, "generate", sample)
    monkeypatch.setattr("textrl_agents.commands.generate._policy", lambda *arguments, **settings: None)


@pytest.mark.usefixtures("hostile_model")
def test_generate() -> None:
    result = textrl("generate", "--model", "embedded", "--prompt", "Say \x1b[31m")
    assert result.exit_code == 0, result.output
    assert clean(result.stdout) == rf"Say \x1b[31m{AS_TEXT}" + "\n"


@pytest.mark.usefixtures("hostile_model")
def test_json_keeps_every_character_and_shows_none_that_is_obeyed() -> None:
    result = textrl("generate", "--model", "embedded", "--prompt", "\x9b\u975e", "--json")
    assert "\u975e" in clean(result.stdout)
    (completion,) = json.loads(result.stdout)
    assert completion == {
        "prompt": "\x9b\u975e",
        "response": HOSTILE,
        "finish_reason": "eos",
        "tokens": 1,
        "log_prob": -1.0,
    }


def test_render(make_model: Any, tiny_tokenizer: Any) -> None:
    text = HOSTILE.replace("\ud800", "")
    task = Task("t", prompts=[text], reward="length", model=lambda: (make_model("llama"), tiny_tokenizer))
    env = TextGenEnv(task, render_mode="ansi", max_prompt_tokens=64)
    env.reset()
    for token in tiny_tokenizer("\x1b[2J\x9b", add_special_tokens=False)["input_ids"]:
        env.step(token)
    shown = clean(env.render())
    assert shown == text.encode("unicode_escape").decode() + r"\x1b[2J\x9b"


@pytest.mark.parametrize("debug", [False, True])
def test_a_reward_that_repeats_the_response_in_its_error(tmp_path: Path, debug: bool) -> None:
    """The original error's own text too, which a traceback repeats."""
    (tmp_path / "reward.py").write_text(
        f"def judge(prompts, completions, **columns):\n    raise ValueError({HOSTILE!r} + completions[0])\n"
    )
    options = ["--debug"] if debug else []
    arguments = ["--reward", f"{tmp_path / 'reward.py'}:judge", "--eval-episodes", 0, "--out", tmp_path / "run"]
    result = textrl(*options, "train", *RUN, "--timesteps", 160, *arguments)
    assert result.exit_code == 1
    errors = clean(result.stderr)
    assert "error: reward 'judge' raised ValueError on sample 0 of" in errors
    assert AS_TEXT in errors
    assert ("Traceback" in errors) == debug


@pytest.mark.slow
def test_an_error_that_nobody_foresaw() -> None:
    """Its traceback is shown, on the terminal's terms."""
    code = (
        "import sys\nfrom textrl_agents import cli\nfrom textrl_agents.commands import demo\n"
        "def broken(*a, **k): raise RuntimeError('\\x1b[2J\\x9b')\n"
        "import textrl_agents.runs.demo\ntextrl_agents.runs.demo.run_demo = broken\n"
        "sys.argv = ['textrl', 'demo']\ncli.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert r"RuntimeError: \x1b[2J\x9b" in clean(done.stderr)


def hostile_episode(prompt: str = HOSTILE) -> Trajectory:
    ids = np.array([1])
    known = {"finish_reason": "eos", "score": 1.25, "kl": np.array([0.1]), "log_probs": np.array([-1.0])}
    return Trajectory.of_response(ids, ids, prompt=prompt, response=HOSTILE, **known)


def test_sample_file(tmp_path: Path) -> None:
    """It is read with `cat` too."""
    file = SampleFile(tmp_path / "samples.md")
    file.add(10, [hostile_episode()], prompts="held-out prompts")
    assert r"\\x1b\[2J\\x1b\]0;owned\\x07" in clean(file.path.read_text(encoding="utf-8"))


def test_tables_of_samples() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=400)
    evaluation = Evaluation(HOSTILE, "heldout", 0, False, 0.1, {}, {}, 0.0, 0.0, [hostile_episode()])
    console.print(sample_table(evaluation, evaluation, 1))
    assert clean(screen.getvalue()).count(AS_TEXT) == 3


def test_benchmark_lines() -> None:
    screen = io.StringIO()
    cell = Cell("ppo", "exact", 0, 100)
    with CellProgress(1, console=Console(file=screen, width=400)) as progress:
        progress.note(HOSTILE)
        progress.started(cell)
        progress.finished(cell, {"status": "failed", "error": HOSTILE})
    assert clean(screen.getvalue()).count(AS_TEXT) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_a_benchmark_in_a_file_tells_what_runs(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(cell_progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    screen = io.StringIO()
    console = Console(file=screen, width=400, force_terminal=terminal)
    with CellProgress(2, console=console) as progress:
        progress.started(Cell("ppo", "exact", 0, 100))
        for clock[0] in (1059.0, 1060.0, 1119.0, 1240.0):
            progress.waiting()
    lines = screen.getvalue().splitlines()
    if terminal:
        assert not any("started" in line or "running" in line for line in lines)
    else:
        assert lines == [
            "[0/2] ppo on exact, seed 0: started",
            "[0/2] running: ppo on exact, seed 0 (1 min)",
            "[0/2] running: ppo on exact, seed 0 (4 min)",
        ]


def test_check_and_bench_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [CheckResult("ratio", False, 1.0, 1e-5, HOSTILE)]
    monkeypatch.setitem(
        sys.modules, "textrl_agents.check.self_check", SimpleNamespace(run_checks=lambda **arguments: rows)
    )
    measured = [{"name": "rollout", "value": 0.5, "unit": "x", "target": ">= 1", "ok": False, "detail": HOSTILE}]
    stand_in = SimpleNamespace(run_speed=lambda **arguments: measured)
    monkeypatch.setitem(sys.modules, "textrl_agents.speed.speed", stand_in)
    monkeypatch.setenv("COLUMNS", "400")
    for command in (["check"], ["bench", "speed"]):
        assert AS_TEXT in clean(textrl(*command).stdout), command
