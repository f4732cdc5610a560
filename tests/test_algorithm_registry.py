"""The registry of algorithms: each file in its folder is one, can be looked up, and has settings its library takes."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from textrl_agents.algorithms import built_in, registry
from textrl_agents.algorithms.algorithm import Algorithm, load_object
from textrl_agents.algorithms.registry import (
    LIBRARIES,
    algorithm_names,
    built_in_names,
    find_algorithm,
    get_algorithm,
    names_in,
    register_algorithm,
)
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.tasks import task_names

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in Path(built_in.__path__[0]).glob("*.py") if path.stem != "__init__")
PLACE = re.compile(r"(textrl_agents|stable_baselines3|sb3_contrib|ray|trl)[\w.]*:\w+")


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_is_an_algorithm(path: Path) -> None:
    algorithm = get_algorithm(path.stem)
    assert algorithm.name == path.stem
    assert algorithm.description
    assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 60, "what it is, and its source"
    assert set(algorithm.task_settings) <= set(task_names())
    assert set(algorithm.tasks) <= set(task_names())


@pytest.mark.parametrize("name", built_in_names())
def test_what_it_names_is_there_and_takes_its_settings(name: str) -> None:
    algorithm = get_algorithm(name)
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if isinstance(value, str) and PLACE.fullmatch(value):
            assert callable(_loaded(value)), value
    for task in task_names():
        algorithm.check_settings(algorithm.settings_for(task))
    with pytest.raises(UnknownName, match="'no_such_setting'"):
        algorithm.check_settings({"no_such_setting": 1})
    defaults: dict[str, Any] = getattr(algorithm, "defaults", {})
    algorithm.check_settings(defaults)


def _loaded(place: str) -> Any:
    if place.startswith("trl"):
        from textrl_agents.trl.trainer import load_trl

        return load_trl(place)
    return load_object(place)


def test_reading_them_imports_neither_torch_nor_a_library() -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'agents')!r}]\n"
        "from textrl_agents.algorithms.registry import built_in_names, get_algorithm\n"
        "[get_algorithm(name).settings_for('exact') for name in built_in_names()]\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "transformers", "stable_baselines3", "ray", "trl"} & set(json.loads(done.stdout))


def test_no_code_asks_for_an_algorithm_by_its_name() -> None:
    comparison = re.compile(rf"""\balgo\w*(\.name)? (==|!=) ["']({"|".join(built_in_names())})["']""")
    for path in (ROOT / "agents").rglob("*.py"):
        assert not comparison.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("name", "library", "found"),
    [
        ("ppo", None, "ppo"),
        ("ppo", "sb3", "ppo"),
        ("ppo", "rllib", "rllib_ppo"),
        ("rllib_ppo", None, "rllib_ppo"),
        ("rllib_ppo", "rllib", "rllib_ppo"),
        ("appo", None, "rllib_appo"),
        ("dpo", "trl", "trl_dpo"),
        ("grpo", None, "grpo"),
        ("grpo", "trl", "trl_grpo"),
        ("best_of_n", None, "best_of_n"),
    ],
)
def test_names_of_libraries(name: str, library: str | None, found: str) -> None:
    assert find_algorithm(name, library).name == found


@pytest.mark.parametrize(
    ("name", "library", "message"),
    [
        ("trpo", "rllib", "unknown algorithm 'trpo'"),
        ("best_of_n", "sb3", "unknown algorithm 'best_of_n'"),
        ("rllib_ppo", "sb3", "unknown algorithm 'rllib_ppo'"),
        ("pppo", None, "unknown algorithm 'pppo'. Did you mean 'ppo'"),
        ("ppo", "sb4", "unknown lib 'sb4'. Did you mean 'sb3'"),
        (3, None, "unknown algorithm 3"),
    ],
)
def test_names_that_are_not_there(name: Any, library: str | None, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        find_algorithm(name, library)


@pytest.mark.usefixtures("_own_registry")
def test_an_algorithm_of_a_library_can_be_registered() -> None:
    """It is wired as the built-in ones are, by its name."""
    mine = dataclasses.replace(get_algorithm("rllib_ppo"), name="rllib_mine")
    register_algorithm(mine)
    assert find_algorithm("mine", "rllib") is find_algorithm("mine") is mine
    assert "mine" in names_in("rllib")
    register_algorithm(dataclasses.replace(get_algorithm("trl_dpo"), name="trl_mine"))
    with pytest.raises(ConfigError, match="rllib, trl all have 'mine': say which with lib"):
        find_algorithm("mine")


def test_every_name_is_of_one_library_or_of_none() -> None:
    listed = [name for library in (*LIBRARIES, None) for name in names_in(library)]
    assert len(listed) == len(built_in_names()) <= len(algorithm_names())


def test_settings_of_a_task_go_on_top() -> None:
    mine = Algorithm("mine", lambda cell, record: None, settings={"a": 1, "b": 2}, task_settings={"exact": {"b": 3}})  # type: ignore[arg-type, return-value]
    assert mine.settings_for("exact") == {"a": 1, "b": 3}
    assert mine.settings_for("sentiment") == {"a": 1, "b": 2}
