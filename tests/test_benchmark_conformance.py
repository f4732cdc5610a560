"""The check of users' own algorithms: a sound one passes, and each fault is named."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from textrl_agents.algorithms import registry
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.cell_setup import judging_env
from textrl_agents.algorithms.registry import algorithm_names, get_algorithm, register_algorithm
from textrl_agents.check.conformance import check_algorithm
from textrl_env import Task, register_task
from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks import registry as task_registry

Change = Callable[[Cell, Record, Trained], Trained | None]


def untouched(cell: Cell, record: Record) -> Trained:
    """The simplest algorithm: the reference, after one recorded point."""
    env = judging_env(cell)
    reference: Any = env.kl_penalty.reference
    record(100, score=0.5, kl=None, length=3.0)
    model = copy.deepcopy(reference.lm.model)
    return Trained(CausalLMActorCritic(model, env.tokenizer, max_length=env.rules.max_length), tokens=100)


def algorithm(change: Change | None = None) -> Algorithm:
    def train(cell: Cell, record: Record) -> Trained:
        trained = untouched(cell, record)
        return trained if change is None else change(cell, record, trained) or trained

    return Algorithm("mine", train)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    tasks, algorithms = dict(task_registry._REGISTERED), dict(registry._REGISTERED)
    yield
    task_registry._REGISTERED.clear()
    task_registry._REGISTERED.update(tasks)
    registry._REGISTERED.clear()
    registry._REGISTERED.update(algorithms)


def test_a_sound_algorithm_passes_and_its_evaluation_is_returned():
    evaluation = check_algorithm(algorithm())
    assert evaluation.task == "exact"
    assert abs(evaluation["kl"].mean) < 1e-5


@pytest.mark.parametrize("name", ["ppo", "grpo", "q_learning"])
def test_built_in_algorithms_pass(name: str):
    check_algorithm(get_algorithm(name), budget=5120)


def _other_type(cell: Cell, record: Record, trained: Trained) -> Any:
    return trained.policy


def _too_many(cell: Cell, record: Record, trained: Trained) -> None:
    trained.tokens = 2 * cell.budget


def _uncounted(cell: Cell, record: Record, trained: Trained) -> None:
    trained.tokens = -1


def _hidden(cell: Cell, record: Record, trained: Trained) -> None:
    record(cell.budget, score=1.0, kl=0.0, length=1.0)


def _not_finite(cell: Cell, record: Record, trained: Trained) -> None:
    record(200, score=math.nan, kl=0.0, length=1.0)


def _backwards(cell: Cell, record: Record, trained: Trained) -> None:
    record(50, score=0.0, kl=0.0, length=1.0)


def _unusable(cell: Cell, record: Record, trained: Trained) -> None:
    trained.policy = object()


def _unseeded(cell: Cell, record: Record, trained: Trained) -> None:
    generator = torch.Generator()
    generator.seed()
    with torch.no_grad():
        for weight in trained.policy.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_type, "must return a Trained, got CausalLMActorCritic"),
        (_too_many, "generated 8192 tokens with a budget of 4096"),
        (_uncounted, "Trained.tokens must count the tokens generated, got -1"),
        (_hidden, "recorded a point at 4096 tokens and says it generated 100"),
        (_not_finite, "record finite means only"),
        (_backwards, "recorded 50 tokens after 100"),
        (_unusable, "its policy cannot be evaluated: AttributeError"),
        (_unseeded, "two runs of one seed end in different policies"),
    ],
)
def test_each_fault_is_named(change: Change, message: str):
    with pytest.raises(ConfigError, match=f"algorithm 'mine': .*{message}"):
        check_algorithm(algorithm(change))


def test_an_algorithm_without_reproducible_runs_may_say_so():
    check_algorithm(algorithm(_unseeded), reproducible=False)


def test_a_changed_reference_is_found(make_model: Any, tiny_tokenizer: Any, vowels: Any):
    """CHECKS 27. The task holds a module, and the algorithm trains that very one."""
    model = make_model("llama")
    register_task(Task("held", ["the room"], vowels, model=model, tokenizer=tiny_tokenizer, max_new_tokens=4))

    def train_the_tasks_own(cell: Cell, record: Record, trained: Trained) -> None:
        with torch.no_grad():
            next(iter(model.parameters())).add_(0.1)

    check_algorithm(algorithm(), "held")
    with pytest.raises(ConfigError, match=r"changed the reference's weights: model\.embed_tokens\.weight"):
        check_algorithm(algorithm(train_the_tasks_own), "held")


# --- the registry -----------------------------------------------------------------------------------------


def test_names_and_settings():
    assert {"ppo", "trpo", "rloo", "grpo", "dqn", "q_learning", "best_of_n", "trl_dpo"} <= set(algorithm_names())
    with pytest.raises(UnknownName, match=r"unknown algorithm 'grop'\. Did you mean 'grpo'"):
        get_algorithm("grop")
    ppo = get_algorithm("ppo")
    assert ppo.settings_for("exact")["n_envs"] != ppo.settings_for("sentiment")["n_envs"]
    mine = Algorithm("mine", untouched, settings={"rows": 8})
    register_algorithm(mine)
    assert get_algorithm("mine") is mine
    assert mine.settings_for("exact") == {"rows": 8}
    assert algorithm_names()[-1] == "mine"
    with pytest.raises(ConfigError, match="'mine' is registered already"):
        register_algorithm(mine)
    with pytest.raises(ConfigError, match="takes an Algorithm"):
        register_algorithm(untouched)  # type: ignore[arg-type]


def test_what_an_algorithm_needs_is_checked_before_it_runs():
    cell = Cell("mine", "sentiment", 0, 100)
    with pytest.raises(MissingExtra, match=r"pip install 'textrl-env\[trl\]'"):
        Algorithm("mine", untouched, requires={"no_such_module_here": "trl"}).run(cell, lambda *a, **k: None)
    with pytest.raises(ConfigError, match="mine runs on exact alone, not on 'sentiment'"):
        Algorithm("mine", untouched, tasks=("exact",)).run(cell, lambda *a, **k: None)


def test_every_tuned_setting_is_of_a_known_algorithm_and_task():
    """A typo would leave the tuned value without effect."""
    from textrl_env.tasks import task_names

    for name in algorithm_names():
        assert set(get_algorithm(name).task_settings) <= set(task_names())


def test_an_entry_point_brings_an_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from textrl_env.plugins import plugins

    (tmp_path / "their_package.py").write_text(
        "from textrl_agents.algorithms.algorithm import Algorithm\n"
        "THEIRS = Algorithm('theirs', 'their_package:train')\nBROKEN = 3\n"
    )
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[textrl.algorithms]\ntheirs = their_package:THEIRS\nbroken = their_package:BROKEN\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.cache_clear()
    try:
        assert {"theirs", "broken"} <= set(algorithm_names())
        assert get_algorithm("theirs").train == "their_package:train"
        with pytest.raises(ConfigError, match=r"entry point 'broken' .*gives int, expected an Algorithm"):
            get_algorithm("broken")
    finally:
        monkeypatch.undo()
        plugins.cache_clear()
