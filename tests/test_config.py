"""Settings of a run: layers, names, numbers, and files that must not be able to run code."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from textrl_agents.runs.config import TrainConfig
from textrl_agents.training.settings_file import parse_assignments, read_settings
from textrl_env.errors import ConfigError, UnknownName


def test_flags_go_on_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("task: exact\nseed: 3\nalgorithm:\n  n_steps: 20\n  learning_rate: 1e-3\n")
    config = TrainConfig.of(read_settings(file), parse_assignments(["algorithm.n_epochs=2", "samples=8"]), {"seed": 4})
    assert (config.task, config.seed, config.samples) == ("exact", 4, 8)
    assert config.algorithm == {"n_steps": 20, "learning_rate": 0.001, "n_epochs": 2}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", ".1e-2", "0.001", "1.0e-3"])
def test_numbers_are_numbers(tmp_path: Path, text: str) -> None:
    """PyYAML takes 1e-3 for a text, and a learning rate that is one fails long after."""
    file = tmp_path / "run.yaml"
    file.write_text(f"kl_coef: {text}\n")
    assert read_settings(file) == {"kl_coef": 0.001}
    assert parse_assignments([f"kl_coef={text}"]) == {"kl_coef": 0.001}


def test_ordinary_yaml_is_still_read_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("a: 1\nb: text\nc: yes\nd: null\ne: [1, 2.5]\nf: e5\ng: '1e-3'\n")
    assert read_settings(file) == {"a": 1, "b": "text", "c": True, "d": None, "e": [1, 2.5], "f": "e5", "g": "1e-3"}
    assert yaml.safe_load("1e-3") == "1e-3"  # the library's own loader is not changed


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    config = TrainConfig(
        task="exact", kl_coef={"value": 0.1, "target": 2.0}, reward=["sentiment", 0.5], env={"stop": ["ü"]}
    ).resolved()
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert TrainConfig.of(read_settings(file)) == config


def test_resolved_leaves_nothing_open() -> None:
    config = TrainConfig(task="exact", timesteps=8000, seed=2).resolved()
    assert (config.kl_coef, config.out, config.eval_every, config.save_every) == (0.5, "runs/exact-ppo-2", 1000, 2000)
    assert TrainConfig(task="exact", eval_every=0, kl_coef=0.0).resolved().eval_every == 0
    assert TrainConfig(task="exact", eval_every=0, kl_coef=0.0).resolved().kl_coef == 0.0


def test_unknown_names_suggest() -> None:
    with pytest.raises(UnknownName, match=r"unknown setting 'timestep'. Did you mean 'timesteps'\?"):
        TrainConfig.of({"timestep": 5})
    with pytest.raises(UnknownName, match=r"unknown lib 'sb4'. Did you mean 'sb3'\?"):
        TrainConfig(lib="sb4")
    with pytest.raises(UnknownName, match=r"unknown argument of env 'max_new_token'. Did you mean 'max_new_tokens'\?"):
        TrainConfig(task="exact", env={"max_new_token": 3}).resolved()
    with pytest.raises(UnknownName, match=r"unknown task 'exacto'. Did you mean 'exact'\?"):
        TrainConfig(task="exacto").resolved()
    with pytest.raises(UnknownName, match=r"unknown task 'x{196}\.\.\.\. Known: ") as caught:
        TrainConfig(task="x" * 5000).resolved()
    assert len(str(caught.value)) < 500
    with pytest.raises(ConfigError, match=r"env\.kl_coef is decided by the run"):
        TrainConfig(task="exact", env={"kl_coef": 3}).resolved()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timesteps": 0}, "timesteps must be a whole number >= 1, got 0"),
        ({"timesteps": 1.5}, "timesteps must be a whole number >= 1, got 1.5"),
        ({"n_envs": True}, "n_envs must be a whole number >= 1, got True"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"threads": 0}, "threads must be a whole number >= 1, got 0"),
        ({"eval_episodes": 1}, "eval_episodes must be 0 .* or at least 2"),
        ({"algo": 3}, "algo must be a name, got 3"),
        ({"out": ["a"]}, r"out must be a folder's name, got \['a'\]"),
        ({"algorithm": [1]}, "algorithm must be a mapping"),
        ({"lora": 8}, "lora must be a mapping"),
    ],
)
def test_wrong_values_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.of(settings)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    """CHECKS 36: a tag that makes an object is refused, and nothing of it happens."""
    victim, file = tmp_path / "victim", tmp_path / "run.yaml"
    file.write_text(
        f"task: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{victim}']]\n"
    )
    with pytest.raises(ConfigError, match=r"run\.yaml' is not valid YAML"):
        read_settings(file)
    with pytest.raises(ConfigError, match="the value of --set task is not valid YAML"):
        parse_assignments([f"task=!!python/object/apply:os.system ['touch {victim}']"])
    assert not victim.exists()


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml' cannot be read"):
        read_settings(tmp_path / "none.yaml")
    file = tmp_path / "run.yaml"
    file.write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"run\.yaml' is not valid YAML"):
        read_settings(file)
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="must hold `setting: value` lines, got list"):
        read_settings(file)
    file.write_text("\n")
    assert read_settings(file) == {}
    with pytest.raises(ConfigError, match=r"--set takes NAME=VALUE.*got 'algorithm\.=3'"):
        parse_assignments(["algorithm.=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: &a {prompts: *a}", "has an anchor that holds itself, or more than 100,000 values"),
        ("env: &a [1, [*a]]", "has an anchor that holds itself"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefgh")),
            "has an anchor that holds itself, or more than 100,000 values",  # 9^8 of them
        ),
        ("[" * 2_000, "is not valid YAML: maximum recursion depth"),
        ("seed: " + "9" * 5000, "is not valid YAML: Exceeds the limit"),
        ("task: 2026-99-99", "is not valid YAML: month must be in"),
        ("seed: !!bool perhaps", "is not valid YAML: 'perhaps'"),
        ("seed: !!timestamp soon", "is not valid YAML"),
    ],
)
def test_hostile_yaml_is_one_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yaml' {message}"):
        read_settings(tmp_path / "run.yaml")


def test_anchors_that_end_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: &one {x: 1}\nb: *one\nc: [*one, *one]\n")
    assert read_settings(tmp_path / "run.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}] * 2}


@pytest.mark.parametrize("path", ["x" * 5000, "nul\0l"])
def test_a_config_file_that_cannot_be_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*(File name too long|embedded null byte)") as caught:
        read_settings(path)
    assert len(str(caught.value)) < 500


def test_a_run_has_every_setting(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(TrainConfig(task="exact").to_yaml())
    assert TrainConfig.of_run(file, {"seed": 3}) == TrainConfig(task="exact", seed=3)
    whole = file.read_text()
    for cut in range(len(whole) - len("threads: null\n")):
        file.write_text(whole[:cut])
        with pytest.raises(ConfigError, match=r"is not the whole config\.yaml of a run|is not valid YAML|must hold"):
            TrainConfig.of_run(file)


def test_settings_that_no_file_can_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="give a reward or model by name"):
        TrainConfig(task="exact", reward=lambda prompts, completions: [0.0]).to_yaml()
