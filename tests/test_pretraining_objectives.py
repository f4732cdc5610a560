"""The six objectives: each loss against a table by hand, and the trainer's mean against one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from textrl_agents.pretraining.data import Corpus, EncodedCorpus
from textrl_agents.pretraining.documents.scores import ScoredDocument
from textrl_agents.pretraining.folder import PretrainingFolder
from textrl_agents.pretraining.losses import LOSSES, MOST_WEIGHT, Tokens, Weights, awr, mle, rwr, unlikelihood
from textrl_agents.pretraining.objectives import OBJECTIVES
from textrl_agents.pretraining.rows import DocumentEncoder, PretrainingRow, collate
from textrl_agents.pretraining.run import PretrainingRun
from textrl_agents.pretraining.settings import PretrainSettings
from textrl_agents.pretraining.trainer import PretrainingTrainer, log_mean_weight
from textrl_agents.pretraining.validation import validation_loss
from textrl_agents.runs.run_folder import RunFolder
from textrl_env.models import CausalLMActorCritic

P = (0.5, 0.1, 0.8)  # of three tokens
SCORES = (1.0, 0.0, -1.0)
GOOD = (True, False, True)
VALUES = (0.2, 0.2, 0.2)


def tokens(values: Any = None) -> Tokens:
    return Tokens(torch.tensor(P).log(), torch.tensor(SCORES), torch.tensor(GOOD), values)


def test_every_objective_has_a_loss() -> None:
    assert {objective.loss for objective in OBJECTIVES.values()} == set(LOSSES)


def test_maximum_likelihood_is_minus_log_p() -> None:
    assert mle(tokens(), Weights(0, 1)).tolist() == pytest.approx([-math.log(p) for p in P])


def test_unlikelihood_punishes_what_is_bad() -> None:
    wanted = [-math.log(0.5), -0.7 * math.log(1 - 0.1), -math.log(0.8)]
    assert unlikelihood(tokens(), Weights(0.7, 1)).tolist() == pytest.approx(wanted)


def test_unlikelihood_of_a_bad_token_that_is_certain_is_finite() -> None:
    log_probs = torch.tensor([0.0, -1e-12], requires_grad=True)
    loss = unlikelihood(Tokens(log_probs, torch.zeros(2), torch.tensor([False, False]), None), Weights(1, 1))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert log_probs.grad is not None
    assert torch.isfinite(log_probs.grad).all()


def test_reward_weighted_regression_weighs_by_the_score() -> None:
    scale = log_mean_weight(np.array(SCORES), 0.5)
    mean = sum(math.exp(score / 0.5) for score in SCORES) / 3
    wanted = [-math.exp(score / 0.5) / mean * math.log(p) for score, p in zip(SCORES, P, strict=True)]
    assert rwr(tokens(), Weights(0, 0.5, scale)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_large_scores_do_not_overflow() -> None:
    scores = np.array([1e6, 1e6 - 1.0])
    scale = log_mean_weight(scores, 1.0)
    of = Tokens(torch.tensor([-1.0, -1.0]), torch.tensor(scores), torch.tensor([True, True]), None)
    wanted = [2 / (1 + math.exp(-1)), 2 * math.exp(-1) / (1 + math.exp(-1))]
    assert rwr(of, Weights(0, 1.0, scale)).tolist() == pytest.approx(wanted, rel=1e-6)


def test_a_run_gives_its_objective_what_it_weighs_by(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """The weights of RWR have a mean of 1 over the corpus's tokens, and every alpha is the objective's own or given."""
    documents = [ScoredDocument(("the soup.", " hello room"), (3.0, -1.0)), ScoredDocument(("a",), (0.5,))]
    rows = DocumentEncoder(tiny_tokenizer, max_length=50).encode(documents, threshold=None)

    def weights(objective: str, **settings: Any) -> Weights:
        chosen = PretrainSettings(objective=objective, **settings)
        corpus = Corpus(documents, [], None, False, 2, None)
        run = PretrainingRun(corpus, PretrainingFolder(RunFolder(tmp_path)), chosen, None, None)
        return run._weights(EncodedCorpus(rows, rows))

    found = weights("rwr", beta=0.7)
    assert np.mean(np.exp(rows.scores / 0.7 - found.log_scale)) == pytest.approx(1.0)
    assert weights("unlikelihood") == Weights(1.0, 1.0)
    assert weights("unlikelihood", alpha=0.0) == Weights(0.0, 1.0)
    assert weights("awr", beta=0.2) == Weights(0.5, 0.2)
    assert weights("awr", alpha=0.9) == Weights(0.9, 1.0)


def test_advantage_weighted_regression_by_hand() -> None:
    wanted = [
        -0.3 * min(math.exp((score - value) / 0.1), MOST_WEIGHT) * math.log(p) + 0.7 * (value - score) ** 2
        for p, score, value in zip(P, SCORES, VALUES, strict=True)
    ]
    assert math.exp((SCORES[0] - VALUES[0]) / 0.1) > MOST_WEIGHT, "so that the bound is tried"
    assert awr(tokens(torch.tensor(VALUES)), Weights(0.3, 0.1)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_weight_of_awr_teaches_the_values_nothing() -> None:
    values = torch.tensor(VALUES, requires_grad=True)
    awr(tokens(values), Weights(0.3, 1.0)).sum().backward()
    wanted = [2 * 0.7 * (value - score) for value, score in zip(VALUES, SCORES, strict=True)]
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx(wanted)


ROWS = [
    PretrainingRow([0, 9, 8, 7, 1], [-100, 9, 8, 7, 1], [1.0, 1.0, 1.0, 0.0, 0.0], [True, True, True, False, False]),
    PretrainingRow([0, 5, 1], [-100, 5, 1], [0.0, 0.0, 0.0], [False, False, False]),
]


def per_token(model: Any, head: nn.Module | None = None) -> list[tuple[float, float, bool, float]]:
    """(log p, score, good, value) of every learned token, each row by itself and without padding."""
    found = []
    for row in ROWS:
        with torch.no_grad():
            output = model(torch.tensor([row.input_ids]), output_hidden_states=True)
        log_probs = output.logits[0].double().log_softmax(-1)
        values = torch.zeros(len(row.input_ids), 1) if head is None else head(output.hidden_states[-1][0]).detach()
        for place in range(1, len(row.input_ids)):
            chosen = float(log_probs[place - 1, row.input_ids[place]])
            found.append((chosen, row.scores[place], row.good[place], float(values[place - 1])))
    return found


def make_trainer(model: Any, folder: Path, loss: str, weights: Weights) -> PretrainingTrainer:
    arguments = TrainingArguments(str(folder), report_to=[], use_cpu=True, remove_unused_columns=False)
    return PretrainingTrainer(model=model, args=arguments, loss=loss, weights=weights)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_trainer_takes_the_mean_over_learned_tokens(
    loss: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Padding, BOS and the split into batches count for nothing."""
    model, weights = make_model("llama"), Weights(0.4, 0.9, 0.1)
    head = nn.Linear(32, 1) if loss == "awr" else None
    if head is not None:
        model.add_module("value_head", head)
    wanted = np.mean(
        [
            {
                "mle": -log_p,
                "unlikelihood": -log_p if good else -0.4 * math.log(1 - math.exp(log_p)),
                "rwr": -math.exp(score / 0.9 - 0.1) * log_p,
                "awr": -0.4 * math.exp((score - value) / 0.9) * log_p + 0.6 * (value - score) ** 2,
            }[loss]
            for log_p, score, good, value in per_token(model, head)
        ]
    )
    trainer = make_trainer(model, tmp_path, loss, weights)
    batch = collate([row._asdict() for row in ROWS])
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(wanted, rel=1e-4)
    of_more = trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(12))
    assert float(of_more.detach()) == pytest.approx(wanted * 6 / 12, rel=1e-4)


def test_the_validation_loss_of_good_and_bad_pieces(make_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model = make_model("llama", vocab_size=len(tiny_tokenizer))
    policy = CausalLMActorCritic(model, tiny_tokenizer, max_length=64)
    found = per_token(policy.model)
    good, bad = ([-log_p for log_p, _, is_good, _ in found if is_good == kind] for kind in (True, False))
    for batch_size in (1, 2):
        measured = validation_loss(policy, ROWS, batch_size=batch_size)
        assert measured.good == pytest.approx(np.mean(good), abs=1e-5)
        assert measured.bad == pytest.approx(np.mean(bad), abs=1e-5)
        assert measured.loss == pytest.approx(np.mean(good + bad), abs=1e-5)
    assert math.isnan(validation_loss(policy, [ROWS[1]], batch_size=2).good)


def test_the_validation_loss_is_of_the_distribution_that_is_sampled(
    make_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    """Ids that are never sampled have no share of it, so that the loss falls by what they had."""
    model = make_model("llama", vocab_size=len(tiny_tokenizer))
    free = CausalLMActorCritic(model, tiny_tokenizer, max_length=64)
    before = validation_loss(free, ROWS, batch_size=2).loss
    model.generation_config.suppress_tokens = list(range(100, 300))
    bound = CausalLMActorCritic(model, tiny_tokenizer, max_length=64)
    kept = []
    for row in ROWS:
        with torch.no_grad():
            probs = model(torch.tensor([row.input_ids])).logits[0].double().softmax(-1)
        kept += [-math.log(1 - float(probs[place, 100:300].sum())) for place in range(len(row.input_ids) - 1)]
    after = validation_loss(bound, ROWS, batch_size=2).loss
    assert after == pytest.approx(before - np.mean(kept), abs=1e-5)
    assert after < before
