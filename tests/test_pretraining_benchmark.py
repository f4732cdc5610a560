"""`textrl bench pretrain`: what it concludes from figures that are known, and a whole one, as small as it goes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from textrl_agents.benchmark.pretraining.findings import Findings
from textrl_agents.benchmark.pretraining.jobs import perform, stages
from textrl_agents.benchmark.pretraining.measures import MEASURES, insulting, kl_from
from textrl_agents.benchmark.pretraining.plan import ARMS, OBJECTIVE_ARMS, PretrainingPlan
from textrl_agents.benchmark.pretraining.report import conclusions, markdown, table, write_report
from textrl_agents.benchmark.pretraining.run import run_pretraining_benchmark
from textrl_agents.benchmark.stored_plan import PLAN_FILE
from textrl_agents.cli import app
from textrl_agents.pretraining.control_tokens import add_control_tokens, sample_as_good
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic
from textrl_env.text.tokenization import encode_prompt_text
from textrl_env.trajectory import Trajectory

SMALL = PretrainingPlan(
    seeds=1, documents=64, tokens=3000, rl_tokens=1500, prompts=2, responses=2, sampled=2, heldout=30,
    model={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
           "num_key_value_heads": 1, "max_position_embeddings": 192},
)  # fmt: skip


def findings(points: dict[str, tuple[float, float]], *, noise: float = 0.01, seeds: int = 3) -> Findings:
    """Score and loss of each arm; seeds differ by the same steps in each."""
    values = {}
    for arm in ARMS:
        score, loss = points.get(arm, (0.0, 9.0))
        steps = [noise * (seed - (seeds - 1) / 2) for seed in range(seeds)]
        for name in MEASURES:
            mean = {"score": score, "loss": loss}.get(name, 0.5)
            values[arm, name] = [mean + step * (1 + ARMS.index(arm)) for step in steps]
    samples = {arm: {"unprompted": ["a | b", "\x1b[2J<b>"]} for arm in ARMS}
    return Findings(dataclasses.replace(PretrainingPlan(), seeds=seeds), values, samples)


POINTS = {"mle": (0.5, 1.0), "conditional": (0.9, 1.0), "filter": (0.7, 1.5), "mle + ppo": (0.99, 1.3)}


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    """mle has the loss of conditional and a lower score, which is no domination: the losses do not differ."""
    found = findings(POINTS)
    assert found.frontier("loss") == ["mle", "conditional", "mle + ppo"]
    assert found.dominated_by("filter", "loss") == ["conditional", "mle + ppo"]
    assert conclusions(found)[1].startswith("By the loss of clean text conditional training is on it")


def test_a_conditional_arm_that_is_beaten_is_said_to_be() -> None:
    found = findings({**POINTS, "filter": (0.95, 0.8)})
    assert found.dominated_by("conditional", "loss") == ["filter"]
    assert conclusions(found)[1].endswith("unlike in Korbak et al. 2023: better in both is filter.")


def test_what_lies_within_its_interval_decides_nothing() -> None:
    found = findings({**POINTS, "filter": (0.95, 0.8)}, noise=1.0)
    assert found.frontier("loss") == found.frontier("loss_all") == list(ARMS)


def test_too_few_seeds_have_no_intervals() -> None:
    found = findings(POINTS, seeds=2)
    assert conclusions(found) == [
        "Too few seeds for intervals, so nothing is said of which arm is better; take at least 3."
    ]
    assert found.to_json()["arms"]["mle"]["score"]["ci95"] is None
    assert "±" not in "".join(table(found)[0])


@pytest.mark.slow
def test_the_report(tmp_path: Path) -> None:
    found = findings(POINTS)
    write_report(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pretraining.png", "results.json", "report.md"}
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["frontier"]["loss"] == found.frontier("loss")
    low, high = stored["arms"]["mle"]["score"]["ci95"]
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 4.302653 * 0.01 / np.sqrt(3), rel=1e-4), "Student's t with 2 degrees"
    page = markdown(found)
    assert "\x1b" not in page
    assert "<b>" not in page
    assert page.count("\n| ") >= len(ARMS)


def test_plans(tmp_path: Path) -> None:
    assert PretrainingPlan(**SMALL.to_json()) == SMALL
    with pytest.raises(ConfigError, match="must be fewer than tokens"):
        PretrainingPlan(tokens=10, rl_tokens=10)
    with pytest.raises(ConfigError, match="objectives must have settings for each"):
        PretrainingPlan(objectives={"mle": {}})
    (tmp_path / PLAN_FILE).write_text(json.dumps(SMALL.to_json()))
    with pytest.raises(ConfigError, match="holds another plan: seeds is 1 there and 2 here"):
        run_pretraining_benchmark(dataclasses.replace(SMALL, seeds=2), tmp_path, progress=False)
    (tmp_path / PLAN_FILE).write_text("{")
    with pytest.raises(ConfigError, match="holds no plan of this benchmark"):
        run_pretraining_benchmark(SMALL, tmp_path, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    ran = CliRunner().invoke(app, ["bench", "pretrain", "--out", str(tmp_path / "other")])
    assert ran.exit_code == 2
    assert "what it holds is no benchmark: mine.txt" in ran.stderr


def test_every_arm_is_trained_and_then_measured() -> None:
    first, second, third = stages(SMALL)
    assert [job.arm for job in first] == ["base", *OBJECTIVE_ARMS]
    assert len(second) == 3
    assert [job.arm for job in third] == list(ARMS)
    assert len({job.log for job in (*first, *second, *third)}) == len(first) + len(second) + len(third)


def test_the_kl_from_a_model_of_another_vocabulary(make_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    """Each reads the prompt in its own way; the response is the same ids to both."""
    reference = CausalLMActorCritic(make_model("llama", vocab_size=len(tiny_tokenizer)), tiny_tokenizer, max_length=64)
    model = make_model("llama", vocab_size=len(tiny_tokenizer), seed=1)
    tokenizer, ids = add_control_tokens(model, tiny_tokenizer)
    sample_as_good(model, tokenizer, ids)
    policy = CausalLMActorCritic(model, tokenizer, max_length=64)
    responses = [[5, 9, 1], [300, 7, 8, 11, 1]]
    episodes, wanted = [], []
    for text, response in zip(("the soup", "hello"), responses, strict=True):
        totals = []
        for each in (policy, reference):
            prompt = encode_prompt_text(each.tokenizer, text)
            logits = each.model(torch_ids([*prompt, *response])).logits[0].detach().double()
            if each.banned is not None:
                logits[:, each.banned] = -np.inf
            log_probs = logits.log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
            totals.append(np.array([float(log_probs[at, token]) for at, token in zip(places, response, strict=True)]))
        wanted.append(totals[0].sum() - totals[1].sum())
        prompt = np.array(encode_prompt_text(policy.tokenizer, text))
        episodes.append(
            Trajectory.of_response(prompt, np.array(response), prompt=text, log_probs=totals[0], rewards=totals[0])
        )
    assert kl_from(reference, episodes).tolist() == pytest.approx(wanted, abs=1e-4)


def torch_ids(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])


def test_insulting_is_a_share_of_texts() -> None:
    assert insulting(["you fool, you moron", "a fine day", "", "f00l"]) == 0.5


@pytest.mark.slow
def test_a_whole_benchmark(tmp_path: Path) -> None:
    """All jobs of a tiny plan in this process, then the report by the command, which finds nothing left to do."""
    (tmp_path / PLAN_FILE).write_text(json.dumps(SMALL.to_json()))
    for stage in stages(SMALL):
        for job in stage:
            perform(job, SMALL, tmp_path)
            assert job.is_done(tmp_path)
    found = run_pretraining_benchmark(SMALL, tmp_path, jobs=1, progress=False)
    assert all(np.isfinite(found.values[arm, name]).all() for arm in ARMS for name in MEASURES)
    assert found.values["mle", "kl"] == [pytest.approx(0.0, abs=1e-4)]
    assert found.values["mle + ppo", "loss"] != found.values["mle", "loss"]
    assert all(0 <= value <= 1 for arm in ARMS for value in found.values[arm, "insults_provoked"])
    assert (tmp_path / "report.md").is_file()
