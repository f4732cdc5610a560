"""Sampling: the log-probabilities are those of the distribution drawn from, and the draws follow it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from textrl_env.errors import ConfigError
from textrl_env.models import SamplingParams
from textrl_env.models.sampling import Sample, entropy_of, log_softmax_in_support, sample, warp

P = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
LOGITS = P.log() + 3.0  # any constant may be added to logits
BANNED = torch.tensor([False, True, False, False, False, True])


def normalized(*weights: float) -> list[float]:
    return [weight / sum(weights) for weight in weights]


# What each setting leaves of P, by hand.
CASES = [
    pytest.param({}, None, P.tolist(), id="plain"),
    pytest.param({"temperature": 0.7}, None, normalized(*(p ** (1 / 0.7) for p in P.tolist())), id="temperature"),
    pytest.param({"temperature": 2.0}, None, normalized(*(p**0.5 for p in P.tolist())), id="hot"),
    pytest.param({"top_k": 2}, None, [*normalized(0.4, 0.25), 0, 0, 0, 0], id="top_k"),
    pytest.param({"top_k": 99}, None, P.tolist(), id="top_k above V"),
    # 0.4 + 0.25 = 0.65 < 0.7, so the third is needed to reach it.
    pytest.param({"top_p": 0.7}, None, [*normalized(0.4, 0.25, 0.15), 0, 0, 0], id="top_p"),
    pytest.param({"top_p": 0.01}, None, [1, 0, 0, 0, 0, 0], id="top_p keeps the likeliest"),
    pytest.param({}, BANNED, normalized(0.4, 0, 0.15, 0.1, 0.06, 0), id="banned"),
    # Banned tokens take no place in the k, and no part of the mass.
    pytest.param({"top_k": 2}, BANNED, [*normalized(0.4, 0, 0.15), 0, 0, 0], id="top_k of what is allowed"),
    pytest.param({"top_p": 0.6}, BANNED, [*normalized(0.4, 0, 0.15), 0, 0, 0], id="top_p of what is allowed"),
    pytest.param(
        {"temperature": 0.5, "top_k": 4, "top_p": 0.9},
        None,
        # Squares of P are 16 : 6.25 : 2.25 : 1; the first three hold 24.5 of 25.5 and the first two 22.25 (0.87).
        [*normalized(0.16, 0.0625, 0.0225), 0, 0, 0],
        id="all",
    ),
]


def chi_square_p_value(counts: np.ndarray, probs: np.ndarray) -> float:
    """Probability of a deviation at least this large (Wilson and Hilferty's normal approximation)."""
    probs, counts = probs[probs > 0], counts[probs > 0]
    freedom = len(probs) - 1
    if freedom == 0:
        return 1.0
    statistic = float(((counts - counts.sum() * probs) ** 2 / (counts.sum() * probs)).sum())
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


@pytest.mark.parametrize(("settings", "banned", "expected"), CASES)
def test_log_probs_and_frequencies_are_those_of_the_distribution(
    settings: dict[str, float], banned: torch.Tensor | None, expected: list[float]
):
    """CHECKS 25: against hand-computed probabilities, and 40000 draws by a chi-square test."""
    sampling, probs = SamplingParams(**settings), torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(warp(LOGITS, sampling, banned).softmax(-1), probs, atol=1e-6, rtol=0)
    drawn = sample(LOGITS.expand(40_000, 6), sampling, banned)
    counts = np.bincount(drawn.tokens.numpy(), minlength=6)
    assert counts[np.array(expected) == 0].sum() == 0, "a token outside the support was drawn"
    assert chi_square_p_value(counts, np.array(expected)) > 1e-3
    torch.testing.assert_close(drawn.log_probs.exp(), probs[drawn.tokens], atol=1e-6, rtol=0)
    # What an update computes for the same tokens is what was noted when they were drawn.
    again, _ = log_softmax_in_support(LOGITS.expand(40_000, 6), drawn.tokens, sampling, banned)
    torch.testing.assert_close(again, drawn.log_probs, atol=1e-6, rtol=0)


def test_the_chi_square_test_sees_a_wrong_distribution():
    """The oracle itself: 40000 draws at temperature 1.05 are not taken for draws at 1."""
    drawn = sample(LOGITS.expand(40_000, 6), SamplingParams(temperature=1.05)).tokens
    assert chi_square_p_value(np.bincount(drawn.numpy(), minlength=6), P.numpy()) < 1e-3


def test_rows_are_drawn_from_their_own_distributions():
    logits = torch.full((3, 4), -50.0)
    logits[torch.arange(3), torch.tensor([2, 0, 3])] = 50.0
    assert sample(logits, SamplingParams()).tokens.tolist() == [2, 0, 3]


def test_a_large_vocabulary_keeps_its_tail():
    """Fifty thousand equally likely tokens in fp32: the last ones are drawn as often as the first."""
    logits = torch.zeros(128, 50_257)
    tokens = torch.cat([sample(logits, SamplingParams()).tokens for _ in range(16)]).numpy()
    counts = np.bincount(tokens // 5026, minlength=10)
    assert chi_square_p_value(counts, np.full(10, 0.1)) > 1e-3


def test_the_same_seed_draws_the_same_tokens():
    """CHECKS 2: torch's global generator alone decides."""
    torch.manual_seed(5)
    first = sample(LOGITS.expand(50, 6), SamplingParams()).tokens
    torch.manual_seed(5)
    assert torch.equal(sample(LOGITS.expand(50, 6), SamplingParams()).tokens, first)


def test_greedy_takes_the_likeliest_allowed_token():
    drawn = sample(LOGITS[None], SamplingParams(), torch.tensor([True] + [False] * 5), deterministic=True)
    assert isinstance(drawn, Sample)
    assert drawn.tokens.tolist() == [1]
    assert drawn.log_probs.tolist() == [0.0], "a point mass"


def test_ties_at_the_kth_place_are_kept_together():
    """Cutting one of two equal tokens would be arbitrary, and another one in the next forward."""
    kept = warp(torch.tensor([2.0, 1.0, 1.0, 0.0]), SamplingParams(top_k=2))
    assert torch.isfinite(kept).tolist() == [True, True, True, False]


def test_a_token_outside_the_support_has_a_finite_log_prob_below_every_kept_one():
    """An update may move the top-k cut past a token that was drawn: no infinity reaches the optimizer."""
    logits = LOGITS.repeat(6, 1).requires_grad_()
    chosen, log_probs = log_softmax_in_support(logits, torch.arange(6), SamplingParams(top_k=3))
    assert torch.isinf(log_probs[0, 3:]).all()
    assert torch.isfinite(chosen).all()
    torch.testing.assert_close(chosen[:3].exp(), P[:3] / P[:3].sum())
    torch.testing.assert_close(chosen[3:].exp(), P[3:])
    assert chosen[3:].max() < chosen[:3].min()
    (chosen.sum() + entropy_of(log_probs).sum()).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"temperature": 0.7}])
def test_entropy(settings: dict[str, float]):
    log_probs = warp(LOGITS[None], SamplingParams(**settings)).log_softmax(-1)
    probs = log_probs.exp().double()[0]
    probs = probs[probs > 0]
    assert float(entropy_of(log_probs)) == pytest.approx(float(-(probs * probs.log()).sum()), abs=1e-6)


def test_half_precision_logits_are_normalized_in_fp32():
    chosen, log_probs = log_softmax_in_support(
        LOGITS[None].bfloat16(), torch.tensor([0]), SamplingParams(temperature=0.9)
    )
    assert chosen.dtype == log_probs.dtype == torch.float32
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"temperature": 0}, "temperature must be > 0, got 0. For greedy decoding use deterministic=True"),
        ({"temperature": -1}, "temperature must be > 0"),
        ({"temperature": math.nan}, "temperature must be > 0"),
        ({"temperature": math.inf}, "temperature must be"),
        ({"top_k": -1}, "top_k must be a whole number >= 0"),
        ({"top_k": 2.5}, "top_k must be a whole number >= 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        ({"temperature": "warm"}, "temperature must be"),
        ({"top_k": "ten"}, "top_k must be"),
        ({"top_p": None}, "top_p must be"),
    ],
)
def test_parameters_that_cannot_work(settings: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        SamplingParams(**settings)
