"""From names to cells: what is run, what is left out and said, what is refused before anything runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from textrl_agents.algorithms import registry
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.cell_setup import judging_env
from textrl_agents.algorithms.registry import algorithm_names, get_algorithm, register_algorithm
from textrl_agents.benchmark.plan import PRESETS, Plan, Preset, parse_env, parse_settings
from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.plugins import load_plugin_files
from textrl_env.tasks import task_names


def never(cell: Cell, record: Record) -> Trained:
    raise AssertionError("planning runs nothing")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})
    register_algorithm(Algorithm("plain", never, settings={"rate": 1.0, "sizes": (1, 2)}))
    register_algorithm(Algorithm("letters", never, tasks=("exact",)))
    register_algorithm(Algorithm("remote", never, requires={"no_such_module": "rllib"}))


def test_cells_are_every_algorithm_on_every_task_seed_by_seed() -> None:
    plan = Plan.of(
        algos=["plain", "letters", "plain"],
        tasks=["exact", "sentiment"],
        seeds=2,
        budget=500,
        settings={"plain": {"rate": 0.5}},
        env={"kl_coef": 0.1},
        eval_episodes=16,
        device="cpu",
    )
    assert [(cell.algorithm, cell.task, cell.seed) for cell in plan.cells] == [
        (algorithm, task, seed)
        for seed in (0, 1)
        for algorithm, task in (("plain", "exact"), ("letters", "exact"), ("plain", "sentiment"))
    ]
    first = plan.cells[0]
    assert first == Cell("plain", "exact", 0, 500, {"rate": 0.5, "sizes": [1, 2]}, {"kl_coef": 0.1}, 16, "cpu")
    assert plan.cells[1].settings == {}
    assert plan.notes == ("letters runs on exact alone, so it is left out on sentiment",)


def test_a_plan_that_was_written_and_read_has_the_same_cells(tmp_path: Path) -> None:
    """By their keys too: a benchmark that goes on must know what it has done."""
    path = tmp_path / "benchmark.yaml"
    plan = Plan.of(
        algos=["plain"], tasks=["exact"], seeds=3, settings={"plain": {"rate": 1e-4}}, env={"sampling": {"top_p": 0.9}}
    )
    path.write_text(plan.to_yaml())
    again = Plan.read(path)
    assert again.cells == plan.cells
    assert [cell.key for cell in again.cells] == [cell.key for cell in plan.cells]
    assert len({cell.key for cell in plan.cells}) == 3


def test_settings_are_chosen_by_validation_prompts_and_reported_on_held_out_ones(tmp_path: Path) -> None:
    """Another split is another experiment; the one that is reported keeps the key that its results have."""
    reported, chosen = (
        Plan.of(algos=["plain"], tasks=["sentiment"], seeds=1, split=split) for split in ("heldout", "validation")
    )
    (cell,), (other,) = reported.cells, chosen.cells
    parts = [cell.algorithm, cell.task, cell.seed, cell.budget, cell.settings, cell.env, cell.eval_episodes]
    assert cell.key == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16] != other.key
    assert [judging_env(each).prompts.split for each in (cell, other)] == ["heldout", "validation"]
    path = tmp_path / "benchmark.yaml"
    path.write_text(chosen.to_yaml())
    assert Plan.read(path).cells == chosen.cells
    with pytest.raises(UnknownName, match=r"unknown split to judge by 'heldut'\. Did you mean 'heldout'"):
        Plan.of(algos=["plain"], tasks=["exact"], split="heldut")


@pytest.mark.parametrize("text", ["seeds: 1", "runs: [{algorithm: ppo}]\nseeds: 1", "runs: 3\nseeds: 1", "nonsense: 1"])
def test_a_file_that_is_no_plan_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "benchmark.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"benchmark\.yaml is not the plan of a benchmark"):
        Plan.read(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algos": ["plian"], "tasks": ["exact"]}, "unknown algorithm 'plian'. Did you mean 'plain'"),
        ({"algos": ["plain"], "tasks": ["exakt"]}, "unknown task 'exakt'. Did you mean 'exact'"),
        ({"preset": "quikc"}, "unknown preset 'quikc'. Did you mean 'quick'"),
        (
            {"algos": ["plain"], "tasks": ["exact"], "settings": {"letters": {"a": 1}}},
            "unknown algorithm of --set 'letters'",
        ),
        (
            {"algos": ["plain"], "tasks": ["exact"], "env": {"kl_cof": 1}},
            "unknown argument of the environment 'kl_cof'. Did you mean 'kl_coef'",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        Plan.of(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algos": ["plain"]}, "name what to run: .*--tasks exact.*or a --preset"),
        ({}, "name what to run"),
        ({"algos": ["letters"], "tasks": ["sentiment"]}, "nothing to run: letters runs on exact alone"),
        ({"algos": ["plain"], "tasks": ["exact"], "seeds": 0}, "seeds must be a whole number >= 1, got 0"),
        ({"algos": ["plain"], "tasks": ["exact"], "budget": 0}, "budget must be a whole number >= 1, got 0"),
        ({"algos": ["plain"], "tasks": ["exact"], "budget": 1.5}, r"budget must be a whole number >= 1, got 1\.5"),
        ({"algos": ["plain"], "tasks": ["exact"], "eval_episodes": 1}, "eval_episodes must be a whole number >= 2"),
        ({"algos": ["plain"], "tasks": ["exact"], "env": {"device": "cpu"}}, "cannot decide 'device': use --device"),
        ({"algos": ["plain"], "tasks": ["exact"], "env": {"kl_mode": "auto"}}, "cannot decide 'kl_mode'"),
        ({"algos": ["plain"], "tasks": ["exact"], "env": {"split": "train"}}, "cannot decide 'split': use --split"),
        (
            {"algos": ["plain"], "tasks": ["exact"], "settings": {"plain": {"rate": object()}}},
            "arguments of plain must be numbers, text, lists and mappings",
        ),
    ],
)
def test_what_cannot_run_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan.of(**arguments)


def test_a_missing_library_is_refused_where_it_was_asked_for_and_told_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MissingExtra, match=r"no_such_module is not installed.*pip install 'textrl-env\[rllib\]'"):
        Plan.of(algos=["plain", "remote"], tasks=["exact"])
    monkeypatch.setitem(PRESETS, "all", Preset("", tasks=["exact"], seeds=1, budget=10, eval_episodes=2))
    plan = Plan.of(preset="all")
    planned = {cell.algorithm for cell in plan.cells}
    assert {"plain", "letters", "reference"} <= planned
    assert "remote" not in planned
    assert [note for note in plan.notes if note.startswith("remote is left out: no_such_module is not installed")]


def test_flags_go_on_top_of_a_preset() -> None:
    plan = Plan.of(preset="quick", tasks=["exact"], algos=["plain"], seeds=4)
    quick = PRESETS["quick"]
    assert [cell.seed for cell in plan.cells] == [0, 1, 2, 3]
    assert {cell.budget for cell in plan.cells} == {quick.budget_for("exact")}
    assert {cell.eval_episodes for cell in plan.cells} == {quick.eval_episodes}
    assert {cell.budget for cell in Plan.of(preset="quick", algos=["plain"], budget=7).cells} == {7}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_what_there_is(name: str) -> None:
    preset = PRESETS[name]
    assert set(preset.tasks) <= set(task_names())
    assert set(preset.budgets) <= set(preset.tasks)
    for algorithm in preset.algos:
        get_algorithm(algorithm)
    assert not preset.algos or "reference" in preset.algos  # the zero point of the report's scale
    for task in {"exact", "exact_turns"}.intersection(preset.tasks):
        assert preset.budget_for(task) > preset.budget_for("sentiment"), "a share of the optimum takes more"
    if name == "default":
        assert preset.seeds >= 3  # below, there are no intervals
        assert {cell.algorithm for cell in Plan.of(preset=name).cells} >= {"reference", "ppo", "q_learning"}


def test_assignments_of_the_command_line() -> None:
    settings = parse_settings(["ppo.n_steps=32", "ppo.learning_rate=1e-3", "a2c.net=[1, 2]"])
    assert settings == {"ppo": {"n_steps": 32, "learning_rate": 1e-3}, "a2c": {"net": [1, 2]}}
    assert parse_env(["kl_coef=0.1", "sampling.top_p=0.5"]) == {"kl_coef": 0.1, "sampling": {"top_p": 0.5}}
    for wrong in ("n_steps=32", "ppo.n_steps", ".n=1", "ppo.=1"):
        with pytest.raises(ConfigError, match=r"--set takes ALGO\.NAME=VALUE, such as ppo\.n_steps=32; got"):
            parse_settings([wrong])
    for wrong in ("kl_coef", "=1"):
        with pytest.raises(ConfigError, match=r"--env takes NAME=VALUE, such as kl_coef=0\.1; got"):
            parse_env([wrong])
    with pytest.raises(ConfigError, match="the value of --env kl_coef is not valid YAML"):
        parse_env(["kl_coef=["])


def test_a_plug_in_registers_once_and_its_errors_name_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from textrl_agents.algorithms.algorithm import Algorithm\n"
        "from textrl_agents.algorithms.registry import register_algorithm\n"
        "register_algorithm(Algorithm('mine', 'somewhere:train', 'my own'))\n"
    )
    for _ in range(2):
        plan = Plan.of(algos=["mine"], tasks=["exact"], plugins=[file])
    assert plan.plugins == (str(file),)
    assert "mine" in algorithm_names()
    (tmp_path / "broken.py").write_text("1 / 0")
    for _ in range(2):  # it is not taken for loaded
        with pytest.raises(ConfigError, match=r"plug-in '.*broken\.py' failed with ZeroDivisionError"):
            load_plugin_files([tmp_path / "broken.py"])
    with pytest.raises(ConfigError, match=r"plug-in '.*none\.py' is not a Python file"):
        load_plugin_files([tmp_path / "none.py"])
