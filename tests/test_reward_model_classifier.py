"""The kind "classifier": TRL's stock RewardTrainer on our ids, and how far 400 noisy comparisons take each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tokenizer import tiny_tokenizer as make_tokenizer

from textrl_agents.reward_models import evaluate_reward_model, train_reward_model
from textrl_agents.reward_models.fitting.classifier import new_classifier
from textrl_agents.reward_models.sources import gold_of
from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.preferences.records import Candidate, Comparison, Record
from textrl_env.rewards import make_reward

pytestmark = pytest.mark.slow
SETTINGS = {"learning_rate": 3e-3, "num_train_epochs": 4, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def records(count: int = 64, *, ties: int = 0) -> list[Record]:
    """The response with "good" is better, in either place."""
    made: list[Record] = []
    for n in range(count):
        texts = (f" good room {n % 7}", f" bad room {n % 5}")
        pair = tuple(map(Candidate, texts if n % 2 else texts[::-1]))
        tied = n < ties
        made.append(Comparison(prompt=f"prompt {n // 2}", candidates=pair, preferred=None if tied else 1 - n % 2))
    return made


def test_a_classifier_learns_and_loads_on_the_stated_scale(base: Path, tmp_path: Path):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    told: list[str] = []
    report = train_reward_model(
        records(), out=tmp_path / "rm", kind="classifier", model=base, settings=SETTINGS, told=told.append, plot=False
    )
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert any("update" in text for text in told)
    assert report.heldout.accuracy is not None
    assert report.heldout.accuracy.value > 0.9
    judged = list(dict.fromkeys((each.prompt, candidate.text) for each in records() for candidate in each.candidates))
    scores = np.array(make_reward(tmp_path / "rm")([p for p, _ in judged], [text for _, text in judged]))
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-4)
    # A plain classifier for transformers and TRL, and one to go on from.
    again = train_reward_model(
        records(), out=tmp_path / "again", model=tmp_path / "rm", settings={"learning_rate": 0.0}, plot=False
    )
    assert again.heldout.accuracy == report.heldout.accuracy
    assert again.normalization == pytest.approx(report.normalization, rel=1e-4)


def test_the_same_seed_trains_the_same_classifier(base: Path, tmp_path: Path):
    def weights(name: str, seed: int) -> bytes:
        settings = {**SETTINGS, "num_train_epochs": 1}
        train_reward_model(records(16), out=tmp_path / name, model=base, seed=seed, settings=settings, plot=False)
        return (tmp_path / name / "model.safetensors").read_bytes()

    first = weights("a", 0)
    assert weights("b", 0) == first
    assert weights("c", 1) != first


def test_a_tie_is_trained_on_in_either_order_and_counts_half(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from textrl_agents.trl import reward_trainer

    seen: list[dict[str, Any]] = []

    def note(model: Any, tokenizer: Any, rows: Any, **keywords: Any) -> None:
        seen.extend(rows)

    monkeypatch.setattr(reward_trainer, "train_reward_classifier", note)
    tied = records(40, ties=4)
    decided = Comparison(prompt="x", candidates=(Candidate(" a"), Candidate(" b")), preferred=0, margin=2.0)
    train_reward_model(
        [*tied, *[decided] * 3], out=tmp_path / "rm", model=base, margin_scale=0.5, heldout=0.1, plot=False
    )
    orders = [(tuple(row["chosen_ids"]), tuple(row["rejected_ids"])) for row in seen]
    both_ways = [order for order in orders if order[::-1] in orders]
    assert 0 < len(both_ways) <= 8
    assert all(orders.count(order) % 2 == 0 for order in orders if order not in both_ways)
    assert {row["margin"] for row in seen} <= {0.0, 1.0}


def test_the_trainer_reads_what_the_reward_reads(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The ids in its rows are those that ClassifierReward encodes: no EOS is added, nothing is cut or dropped."""
    from textrl_agents.trl import reward_trainer
    from textrl_env.rewards.classifier import ClassifierReward

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(
        reward_trainer, "train_reward_classifier", lambda model, tokenizer, rows, **rest: seen.extend(rows)
    )
    train_reward_model(records(8), out=tmp_path / "rm", model=base, plot=False)
    reward = ClassifierReward(tmp_path / "rm")
    expected = [
        tuple(ids)
        for each in records(8)
        for ids in reward._encode([each.prompt] * 2, [candidate.text for candidate in each.candidates])
    ]
    assert {tuple(row[name]) for row in seen for name in ("chosen_ids", "rejected_ids")} <= set(expected)


def test_what_cannot_be_trained_is_refused(base: Path, tmp_path: Path):
    for settings, error, message in (
        ({"learning_rat": 1}, UnknownName, "Did you mean 'learning_rate'"),
        ({"output_dir": "x"}, UnknownName, "setting of TRL's RewardConfig"),
        ({"lr_scheduler_type": "no such"}, ConfigError, "RewardConfig refuses"),
    ):
        with pytest.raises(error, match=message):
            train_reward_model(records(8), out=tmp_path / "rm", model=base, settings=settings)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelError, match="cannot be loaded"):
        new_classifier(str(tmp_path), seed=0)


@pytest.fixture(scope="module")
def sentiment() -> tuple[list[Record], list[Record]]:
    """400 comparisons of the embedded policy's samples by an annotator who errs in 10%, and 300 without errors.

    The latter are about the task's held-out prompts.
    """
    from textrl_agents.evaluation.generation import generate
    from textrl_agents.runs.run_folder import plain_policy
    from textrl_env.language.grammar import review_prompts

    policy, gold = plain_policy("embedded", device="cpu"), gold_of("sentiment")

    def compared(split: Any, count: int, error_rate: float, seed: int) -> list[Record]:
        rng = np.random.default_rng(seed)
        prompts = [str(prompt) for prompt in review_prompts(split)]
        drawn = [prompts[place] for place in rng.integers(len(prompts), size=count * 11 // 10)]
        sampled = generate(policy, drawn, n=2, max_new_tokens=48, seed=seed)
        made: list[Record] = []
        for first, second in zip(sampled[::2], sampled[1::2], strict=True):
            texts = [first.response, second.response]
            scores = gold(prompts=[first.prompt] * 2, completions=texts)
            if scores[0] == scores[1]:
                continue
            preferred = int(scores[1] > scores[0]) ^ int(rng.random() < error_rate)
            pair = (Candidate(texts[0]), Candidate(texts[1]))
            made.append(Comparison(prompt=str(first.prompt), candidates=pair, preferred=preferred))
        return made[:count]

    return compared("train", 400, 0.1, 0), compared("heldout", 300, 0.0, 1)


@pytest.mark.parametrize(
    ("kind", "model", "at_least"),
    [
        ("classifier", "embedded-reward", 0.8),
        ("linear", "embedded-reward", 0.8),
        ("trunk", "embedded-reward", 0.8),
        ("classifier", "embedded", 0.55),  # the policy alone knows little of sentiment
    ],
)
def test_400_comparisons_with_errors_are_enough(
    sentiment: tuple[list[Record], list[Record]], tmp_path: Path, kind: Any, model: str, at_least: float
):
    noisy, true = sentiment
    assert len(noisy) == 400
    report = train_reward_model(
        noisy, out=tmp_path / "rm", kind=kind, model=model, gold=gold_of("sentiment"), device="cpu", plot=False
    )
    found = evaluate_reward_model(tmp_path / "rm", true)
    print(
        f"\n{kind} on {model}: accuracy on held-out votes {report.heldout.accuracy}, "
        f"on true preferences of the same pairs {report.heldout.gold_accuracy}, "
        f"on 300 new pairs of held-out prompts {found.accuracy}"
    )
    assert report.heldout.label_accuracy is not None
    assert 0.8 < report.heldout.label_accuracy.value < 1
    assert found.accuracy is not None
    assert found.accuracy.value >= at_least
