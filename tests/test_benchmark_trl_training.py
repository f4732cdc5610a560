"""TRL's stock trainers as entries: they reach what can be reached, within the budget, and leave nothing behind."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.algorithms.cell import Cell, Trained
from textrl_agents.algorithms.cell_setup import initial_policy, training_env
from textrl_agents.algorithms.registry import algorithm_names
from textrl_agents.speed.measurement import Bench, Measurement
from textrl_agents.speed.training import trl_rows
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_agents.trl import OnlineRun
from textrl_agents.trl import train_cell as entry
from textrl_agents.trl.trainer import trl_session
from textrl_env import TextGenVectorEnv
from textrl_env.tasks import Task
from textrl_env.tasks.enumeration import ExactValue

ALGORITHMS = [name for name in algorithm_names() if name.startswith("trl_")]


def cell(algorithm: str, budget: int, task: Any = "exact", env: dict[str, Any] | None = None, **settings: Any) -> Cell:
    return Cell(algorithm, task, 0, budget, settings, env or {}, device="cpu")


class Curve(list[tuple[int, dict[str, Any]]]):
    def __call__(self, tokens: int, *, score: float, kl: float | None, length: float) -> None:
        self.append((tokens, {"score": score, "kl": kl, "length": length}))


def normalized(trained: Trained) -> float:
    """0 for the reference of `exact`, 1 for the optimum."""
    env = training_env(cell("x", 0), rows=1)
    truth = ExactValue(env.rules, env.prompts)
    return (truth.value(trained.policy) - truth.reference_value) / (truth.optimal_value - truth.reference_value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "budget", "settings", "reached"),
    [
        ("trl_rloo", 8000, {"learning_rate": 5e-3}, 0.4),
        ("trl_grpo", 8000, {"learning_rate": 5e-3}, 0.3),
        ("trl_dpo", 5000, {"beta": 0.5, "learning_rate": 1e-3}, 0.15),
        ("trl_orpo", 5000, {"learning_rate": 1e-3}, 0.1),
        ("trl_kto", 5000, {"beta": 0.5, "learning_rate": 1e-3}, 0.15),
        ("trl_dapo", 8000, {"learning_rate": 5e-3}, 0.3),
        ("trl_dr_grpo", 8000, {"learning_rate": 5e-3}, 0.3),
        ("trl_gspo", 8000, {"learning_rate": 5e-3}, 0.3),
        ("trl_cispo", 8000, {"learning_rate": 5e-3}, 0.3),
        ("trl_online_dpo", 8000, {"beta": 1.5, "learning_rate": 1e-3}, 0.2),
    ],
)
def test_each_nears_the_optimum(
    algorithm: str,
    budget: int,
    settings: dict[str, Any],
    reached: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Towards the known optimum within the budget; with nothing printed, sent, left on disk or left on the model."""
    monkeypatch.chdir(tmp_path)
    curve = Curve()
    trained = entry.train(cell(algorithm, budget, **settings), curve)
    assert normalized(trained) > reached
    # A round of 64 responses of at most five tokens may not fit; groups in flight are reckoned at their mean length.
    assert budget - 64 * 5 < trained.tokens <= 1.01 * budget
    tokens = [at for at, _ in curve]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == trained.tokens
    # Online DPO's own figure counts padding, and is not reported.
    assert curve[0][1]["kl"] == (None if algorithm == "trl_online_dpo" else pytest.approx(0.0, abs=1e-5))
    assert all(math.isfinite(value) for _, point in curve for value in point.values() if value is not None)
    assert 1 <= curve[0][1]["length"] <= 5
    assert "forward" not in vars(trained.policy.model)
    assert not any(module.training for module in trained.policy.modules())
    assert normalized(copy.deepcopy(trained)) == pytest.approx(normalized(trained))
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_online_curves_rise_and_report_the_kl() -> None:
    curve = Curve()
    trained = entry.train(cell("trl_rloo", 6000, learning_rate=5e-3), curve)
    early, late = curve[:3], curve[-3:]
    assert np.mean([p["score"] for _, p in late]) > np.mean([p["score"] for _, p in early]) + 0.5
    # TRL's figure of the last batches against ours of fresh samples.
    result = trained.evaluate(_heldout(), 1024, 0)
    assert np.mean([p["kl"] for _, p in late]) == pytest.approx(result["kl"].mean, rel=0.4)


def _heldout() -> TextGenVectorEnv:
    return TextGenVectorEnv(64, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred")


def test_a_round_of_several_steps_is_finished(tiny_task: Task) -> None:
    """Two steps on each batch, twice over: the budget ends training after a whole round."""
    env = training_env(cell("x", 0, tiny_task), rows=1)
    settings = {
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "num_generations": 2,
    }
    curve = Curve()
    with trl_session() as folder:
        run = OnlineRun("grpo", env, initial_policy(env), budget=160, folder=folder, settings=settings, record=curve)
        run.train()
        assert not run.trainer.args.report_to
    assert run.steps_per_round == 4
    assert run.trainer.state.global_step == 4 * len(curve)
    assert run.tokens == curve[-1][0]
    sizes = np.diff([0, *(tokens for tokens, _ in curve)])
    another_fits = [tokens + size <= 160 for (tokens, _), size in zip(curve, sizes, strict=True)]
    assert another_fits == [True] * (len(curve) - 1) + [False]


def test_a_model_without_a_folder_has_its_own_weights_as_reference(tiny_task: Task) -> None:
    env = training_env(cell("x", 0, tiny_task), rows=1)
    policy = initial_policy(env)
    with trl_session() as folder:
        run = OnlineRun("rloo", env, policy, budget=1, folder=folder)
        theirs, ours = run.trainer.ref_model.state_dict(), env.kl_penalty.reference.lm.model.state_dict()  # type: ignore
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)
        assert run.arguments.beta == tiny_task.kl_coef
        assert run.arguments.max_completion_length == tiny_task.max_new_tokens


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_the_tasks_sampling_reaches_trl(algorithm: str, tiny_task: Task) -> None:
    """Its generation, and the temperature by which it divides logits in its loss."""
    task = dataclasses.replace(tiny_task, sampling={"temperature": 0.6, "top_k": 7, "top_p": 0.9})
    env = training_env(cell("x", 0, task), rows=1)
    with trl_session() as folder:
        trainer = OnlineRun(algorithm, env, initial_policy(env), budget=1, folder=folder).trainer
    generation = trainer.generation_config
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.6, 7, 0.9)
    assert trainer.temperature == trainer.args.temperature == 0.6


def test_the_learning_rate_follows_the_budget() -> None:
    """AdamW's rate at each step is the schedule's at the share of the budget that its responses end."""
    env = training_env(cell("x", 0), rows=1)
    rates: list[tuple[int, float]] = []
    with trl_session() as folder:
        run = OnlineRun(
            "rloo",
            env,
            initial_policy(env),
            budget=2000,
            folder=folder,
            schedule=WarmupSchedule(1e-3, warmup=0.5, final=0.0),
        )
        run.trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_: rates.append((run.tokens, optimizer.param_groups[0]["lr"]))
        )
        run.train()
    assert len(rates) > 5
    assert all(rate > 0 for _, rate in rates)
    for tokens, rate in rates[1:]:
        share = tokens / 2000
        assert rate == pytest.approx(1e-3 * (2 * share if share < 0.5 else 2 - 2 * share), abs=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_embedded_model_on_the_default_task(algorithm: str) -> None:
    trained = entry.train(cell(algorithm, 1000, "sentiment"), curve := Curve())
    env = training_env(cell("x", 0, "sentiment"), rows=1)
    reference = env.kl_penalty.reference
    assert reference is not None
    moved = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(trained.policy.model.parameters(), reference.lm.model.parameters(), strict=True)
    ]
    assert all(moved)
    assert -1 < curve[0][1]["score"] < 1
    assert 10 < curve[0][1]["length"] < 40


@pytest.mark.slow
@pytest.mark.parametrize("row", [trl_rows.rloo_against_trl, trl_rows.grpo_against_trl])
def test_rows_of_the_speed_benchmark(row: Measurement) -> None:
    def no_workload() -> Any:
        raise AssertionError("TRL's rows load what they need by name")

    measured = row.measure(Bench(torch.device("cpu"), no_workload, repeats=1), rows=16, rounds=1)
    assert measured.value > 0.3
    assert str(row.target) == ">= 1"
    assert "ours" in measured.detail
    assert "TRL" in measured.detail
