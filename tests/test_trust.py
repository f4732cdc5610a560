"""CHECKS 56: Python that a folder's settings name is not run unless the folder's user says so."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import RUN, textrl

from textrl_agents.benchmark.plan import Plan
from textrl_agents.benchmark.run import run_benchmark
from textrl_agents.runs.train import resume
from textrl_agents.training.trust import python_named_in
from textrl_env.errors import ConfigError


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Made by `evil.py` when it runs."""
    return tmp_path / "ran"


@pytest.fixture
def evil(tmp_path: Path, marker: Path) -> str:
    """A reward in a file, as `file.py:function`."""
    path = tmp_path / "evil.py"
    path.write_text(
        f"open({str(marker)!r}, 'w').close()\n\ndef judge(prompts, completions):\n    return [1.0] * len(prompts)\n"
    )
    return f"{path}:judge"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trust") / "run"
    result = textrl("train", *RUN, "--timesteps", 160, "--eval-episodes", 0, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def foreign_run(trained: Path, evil: str, tmp_path: Path) -> Path:
    """A run folder from elsewhere: its config.yaml names Python."""
    folder = tmp_path / "foreign"
    shutil.copytree(trained, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("reward: null", f"reward: [length, {{reward: '{evil}', weight: 2}}]"))
    return folder


def test_eval_of_a_foreign_folder(foreign_run: Path, evil: str, marker: Path) -> None:
    arguments = ["eval", foreign_run, "--episodes", 4]
    result = textrl(*arguments)
    assert result.exit_code == 2
    assert f"foreign' name Python that would be run: reward.reward: '{evil}'. Read it first" in result.stderr
    assert not marker.exists()
    # What the user names takes the place of what the folder names, which then is not run.
    assert textrl(*arguments, "--reward", "length").exit_code == 0
    assert not marker.exists()
    assert textrl(*arguments, "--reward", evil).exit_code == 0
    assert marker.exists()
    marker.unlink()
    assert textrl(*arguments, "--trust").exit_code == 0
    assert marker.exists()


def test_generate_runs_nothing(foreign_run: Path, marker: Path) -> None:
    assert textrl("generate", foreign_run, "--prompt", "a", "--max-new-tokens", 1).exit_code == 0
    assert not marker.exists()


@pytest.mark.parametrize("trust", [False, None])
def test_resume_of_a_foreign_folder(foreign_run: Path, marker: Path, trust: bool | None) -> None:
    with pytest.raises(ConfigError, match=r"name Python that would be run: reward.*evil\.py:judge.*trust=True"):
        resume(foreign_run, timesteps=320, trust=trust)
    result = textrl("train", "--resume", foreign_run, "--timesteps", 320)
    assert result.exit_code == 2
    assert "say so with --trust" in result.stderr
    assert not marker.exists()


def test_a_run_with_a_reward_of_the_users_own(evil: str, marker: Path, tmp_path: Path) -> None:
    """Named by the user, it runs at once; named by the folder later on, with --trust alone."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"reward": evil}))
    arguments = [*RUN, "--config", tmp_path / "mine.yaml", "--timesteps", 160, "--eval-episodes", 0]
    assert textrl("train", *arguments, "--out", tmp_path / "run").exit_code == 0
    assert marker.exists()
    marker.unlink()
    assert textrl("train", "--resume", tmp_path / "run", "--timesteps", 320).exit_code == 2
    assert not marker.exists()
    assert textrl("train", "--resume", tmp_path / "run", "--timesteps", 320, "--trust").exit_code == 0
    assert marker.exists()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("yes", 0), ("n", 2), ("", 2)])
def test_at_a_terminal_it_asks(
    answer: str, code: int, foreign_run: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textrl_agents.training import trust

    class Terminal:
        def __init__(self, stream: Any):
            self.stream = stream

        def isatty(self) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream(), name)

    stand_in = type("sys", (), {"stdin": Terminal(lambda: sys.stdin), "stderr": Terminal(lambda: sys.stderr)})
    monkeypatch.setattr(trust, "sys", stand_in)
    result = textrl("eval", foreign_run, "--episodes", 4, stdin=f"{answer}\n")
    assert result.exit_code == code, result.output
    assert "evil.py:judge" in result.stderr
    assert "Run it? [y/N]" in result.stderr
    assert marker.exists() == (code == 0)


@pytest.mark.parametrize("named_by", ["plugin", "reward"])
def test_a_foreign_benchmark(named_by: str, evil: str, marker: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench"
    named: dict[str, Any] = (
        {"plugins": [evil.rpartition(":")[0]]} if named_by == "plugin" else {"env": {"reward": evil}}
    )
    plan = Plan.of(algos=["reference"], tasks=["exact"], seeds=1, budget=10, eval_episodes=2, **named)
    marker.unlink(missing_ok=True)  # `of` imports the plug-ins of whoever calls it
    out.mkdir()
    (out / "benchmark.yaml").write_text(plan.to_yaml())
    for name in list(sys.modules):
        if name.startswith("textrl_plugin_evil"):
            del sys.modules[name]
    result = textrl("bench", "run", "--out", out)
    assert result.exit_code == 2
    assert "name Python that would be run: " in result.stderr
    assert "evil.py" in result.stderr
    with pytest.raises(ConfigError, match=r"trust=True"):
        run_benchmark(None, out)
    assert not (out / "results.jsonl").exists()
    assert not marker.exists()
    (line,) = run_benchmark(None, out, trust=True, progress=False)
    assert line["status"] == "done"
    assert marker.exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"reward": "length"}, []),
        ({"reward": "length", "model": "org/some.model", "task": "exact"}, []),
        ({"reward": "a.py:"}, ["reward: "]),  # the file would run before its empty name is missed
        ({"reward": {"x": ["length", ["b.py:f", 0.5]]}}, ["reward.x: "]),
        ({"plugins": ["/x/p.py"]}, ["plugins: ['/x/p.py']"]),
        ({"plugins": []}, []),
        ({"algorithm": {"n_steps": 32, "batch_mode": "truncate_episodes", "ray": {"num_cpus": 2}}}, []),
        ({"algorithm": {"ray": {"address": "evil.org:10001"}}}, ["algorithm.ray.address: 'evil.org:10001'"]),
        ({"algorithm": {"ray": {"runtime_env": {"pip": ["evil"]}}}}, ["algorithm.ray.runtime_env: "]),
        ({"algorithm": {"callbacks_class": "os.system"}}, ["algorithm.callbacks_class: os.system"]),
        ({"algorithm": {"exploration_config": {"type": "a.b.C"}}}, ["algorithm.exploration_config.type: a.b.C"]),
        ({"lora": {"r": 8, "megatron_core": "evil.core"}}, ["lora.megatron_core: evil.core"]),
        ({"runs": [{"settings": {"sample_collector": "evil.Collector"}}]}, ["runs.settings.sample_collector: "]),
    ],
)
def test_what_names_python(settings: dict[str, Any], named: list[str]) -> None:
    found = python_named_in(settings)
    assert len(found) == len(named), found
    assert all(one.startswith(start) for one, start in zip(found, named, strict=True))


def test_no_shipped_settings_ask_for_trust() -> None:
    """A benchmark with the tuned settings of every algorithm goes on without a flag."""
    from textrl_agents.algorithms.registry import algorithm_names, get_algorithm
    from textrl_env.tasks import task_names

    tuned = [get_algorithm(name).settings_for(task) for name in algorithm_names() for task in task_names()]
    assert python_named_in({"settings": tuned}) == []


def test_the_hint_after_a_signal_names_the_flag_that_is_needed(evil: str, tmp_path: Path) -> None:
    from textrl_agents.training.trust import resume_command

    assert resume_command("runs/a", {"reward": "length"}) == "textrl train --resume runs/a"
    assert resume_command("my runs/a", {}) == "textrl train --resume 'my runs/a'"
    assert resume_command("runs/a", {"reward": evil}) == "textrl train --resume runs/a --trust"


@pytest.fixture
def evil_turns(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A turn environment by its import path, in a module that leaves the marker when it is imported."""
    (tmp_path / "evil_turns.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n\n\nclass Game:\n"
        "    def reset(self, seed=None):\n        return 'go', {}\n\n"
        "    def step(self, action):\n        return '', 0.0, True, False, {}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_turns", raising=False)
    return "evil_turns:Game"


def test_a_turn_environment_that_a_foreign_folder_names(
    trained: Path, evil_turns: str, marker: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(trained, folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "env": {"turns": evil_turns}}))
    result = textrl("eval", folder, "--episodes", 4)
    assert result.exit_code == 2
    assert "Python that would be run: turns: evil_turns:Game" in result.stderr
    with pytest.raises(ConfigError, match=r"Python that would be run: env\.turns: evil_turns:Game"):
        resume(folder, timesteps=320, trust=False)
    assert not marker.exists()


def test_turn_environments_that_ship_are_not_python_of_the_folder() -> None:
    for name in ("guess", "textarena:GuessTheNumber-v0", "gem:game:GuessTheNumber-v0", "exact_turns"):
        assert python_named_in({"env": {"turns": name}, "task": name}) == []
    assert python_named_in({"env": {"turns": "os:abort"}}) == ["env.turns: os:abort"]
