"""What `step` takes for an action, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from textrl_env.actions import TokenAction, parse_action, parse_actions
from textrl_env.errors import InvalidAction, StepError, TextRLError

V = 10


@pytest.mark.parametrize(
    "action",
    [
        3,
        np.int64(3),
        np.int32(3),
        np.uint8(3),
        np.array(3),
        np.array([3]),
        torch.tensor(3),
        torch.tensor([3], dtype=torch.int32),
    ],
    ids=repr,
)
def test_plain_ids_are_accepted_in_every_integer_form(action: Any):
    """CHECKS 10: numpy ints and 0-d arrays are token ids too."""
    parsed = parse_action(action, V)
    assert parsed.tokens.dtype == np.int64
    assert parsed.tokens.tolist() == [3]
    assert np.isnan(parsed.log_probs).all()


@pytest.mark.parametrize(
    "action",
    [
        TokenAction(3, -0.5),
        TokenAction(np.array([3]), np.array([-0.5])),
        TokenAction(torch.tensor(3), torch.tensor(-0.5, requires_grad=True)),
        TokenAction(torch.tensor(3), torch.tensor(-0.5, dtype=torch.bfloat16)),
        np.array([3.0, -0.5]),
        np.array([3.0, -0.5], dtype=np.float32),
        torch.tensor([3.0, -0.5], dtype=torch.float64),
    ],
    ids=repr,
)
def test_log_prob_comes_with_the_token(action: Any):
    parsed = parse_action(action, V)
    assert parsed.tokens.tolist() == [3]
    assert parsed.log_probs.dtype == np.float64
    assert parsed.log_probs.tolist() == [-0.5]


def test_a_batch_is_dealt_out_row_by_row():
    """Gymnasium's vector environments iterate over a batch of actions; a pair that unpacked into its two fields would
    hand the first environment all tokens and the second all log-probabilities."""
    for batch in (
        TokenAction([1, 2, 3], [-0.1, -0.2, -0.3]),
        TokenAction(torch.arange(1, 4), -torch.arange(1, 4) / 10),
    ):
        parsed = [parse_action(action, V) for action in batch]
        assert [int(each.tokens[0]) for each in parsed] == [1, 2, 3]
        np.testing.assert_allclose([each.log_probs[0] for each in parsed], [-0.1, -0.2, -0.3], rtol=1e-6)
    with pytest.raises(TypeError, match="not subscriptable"):
        next(iter(TokenAction(3, -0.5)))


def test_a_nan_log_prob_is_a_mistake_where_it_has_an_effect():
    """It is a diverged policy's. Rows that are ignored may hold anything."""
    for actions in (TokenAction([1, 2], [np.nan, -0.5]), np.array([[1.0, np.nan], [2.0, -0.5]])):
        with pytest.raises(InvalidAction, match="finite and <= 0, got nan at index 0"):
            parse_actions(actions, 2, V)
    ignored = np.array([True, False])
    for actions in (
        TokenAction([-1, 2], [np.nan, -0.5]),
        np.array([[np.nan, np.nan], [2.0, -0.5]]),
        [TokenAction(-1, np.nan), TokenAction(2, -0.5)],
    ):
        parsed = parse_actions(actions, 2, V, ignored)
        assert parsed.tokens.tolist() == [0, 2]
        assert parsed.log_probs[1] == -0.5


@pytest.mark.parametrize(
    "action",
    [
        torch.tensor(3, device="meta"),
        torch.tensor([3, 0, 0]).to_sparse(),
        torch.nested.nested_tensor([torch.tensor([3.0]), torch.tensor([3.0, 1.0])], layout=torch.jagged),
        TokenAction(3, torch.tensor(-0.5, device="meta")),
    ],
    ids=["meta", "sparse", "nested", "meta log-prob"],
)
def test_a_tensor_without_values_to_read_is_refused(action: Any):
    with pytest.raises(InvalidAction, match=r"must form an array|one token id"):
        parse_action(action, V)


def test_a_tensor_with_a_lazy_sign_is_read():
    """PyTorch keeps the sign of such a view aside, and refuses a plain `numpy()` of it."""
    lazy = torch.tensor([1 - 3j, 1 + 0.5j]).conj().imag
    assert lazy.is_neg()
    parsed = parse_action(lazy, V)
    assert (parsed.tokens.tolist(), parsed.log_probs.tolist()) == ([3], [-0.5])


def test_rounding_above_zero_is_no_mistake():
    """A float32 log-softmax of a sure token can come out a hair above 0."""
    assert parse_action(TokenAction(3, 1e-7), V).log_probs[0] == 1e-7


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (-1, r"\[0, 10\), got -1"),
        (V, r"\[0, 10\), got 10"),
        (2**63, r"\[0, 10\)"),
        (1.5, "integers, got float64"),
        (3.0, "integers, got float64"),
        (float("nan"), "integers, got float64"),
        (True, "integers, got bool"),
        (None, "integers, got object"),
        ("3", "integers, got <U1"),
        ([1, 2], "one token id"),
        (np.array([[1]]), "one token id"),
        (np.array([], dtype=np.int64), "one token id"),
        ({"token": 3}, "integers, got object"),
        ([1, [2, 3]], "must form an array"),
        (np.array([1.5, -0.5]), "whole token ids"),
        (np.array([np.nan, -0.5]), "whole token ids"),
        (np.array([np.inf, -0.5]), "whole token ids|in \\[0, 10\\)"),
        (np.array([1e300, -0.5]), "whole token ids|in \\[0, 10\\)"),
        (np.array([-1.0, -0.5]), r"\[0, 10\), got -1"),
        (np.array([3, -1]), "one token id"),
        (TokenAction(3, 0.5), "not a probability"),
        (TokenAction(3, np.inf), "finite"),
        (TokenAction(3, -np.inf), "finite"),
        (TokenAction(3, np.nan), "finite and <= 0, got nan.*pass the token id alone"),
        (np.array([3.0, np.nan]), "finite and <= 0, got nan"),
        (TokenAction(3, "x"), "log-probability"),
        (TokenAction(3, None), "log-probability"),
        (TokenAction(3.0, -1.0), "integers"),
        (TokenAction([3, 4], [-1.0, -1.0]), "expected 1 token"),
        (TokenAction(3, [-1.0, -1.0]), "expected 1 log-prob"),
    ],
    ids=repr,
)
def test_refused(action: Any, match: str):
    """CHECKS 10: -1, V, floats, NaN and wrong shapes are refused, by a typed error that says what was got."""
    with pytest.raises(InvalidAction, match=match):
        parse_action(action, V)


def test_the_error_is_a_step_error_and_a_value_error():
    assert issubclass(InvalidAction, (StepError, TextRLError))
    assert issubclass(InvalidAction, ValueError)


@pytest.mark.parametrize(
    "actions",
    [
        TokenAction(np.array([1, 2, 3]), np.array([-0.1, -0.2, -0.3])),
        TokenAction([1, 2, 3], [-0.1, -0.2, -0.3]),
        [TokenAction(1, -0.1), TokenAction(2, -0.2), TokenAction(3, -0.3)],
        (TokenAction(1, -0.1), TokenAction(2, -0.2), TokenAction(3, -0.3)),
        np.array([[1, -0.1], [2, -0.2], [3, -0.3]]),
    ],
    ids=["arrays", "lists", "list of pairs", "tuple of pairs", "rows"],
)
def test_rows_with_log_probs(actions: Any):
    parsed = parse_actions(actions, 3, V)
    assert parsed.tokens.tolist() == [1, 2, 3]
    np.testing.assert_allclose(parsed.log_probs, [-0.1, -0.2, -0.3], rtol=1e-12)


def test_rows_without_and_with_mixed_log_probs():
    assert parse_actions([1, 2, 3], 3, V).tokens.tolist() == [1, 2, 3]
    mixed = parse_actions([TokenAction(1, -0.1), 2], 2, V)
    assert mixed.tokens.tolist() == [1, 2]
    np.testing.assert_array_equal(mixed.log_probs, [-0.1, np.nan])


@pytest.mark.parametrize(
    ("actions", "match"),
    [
        ([1, 2], "expected 3 token"),
        (5, "expected 3 token"),
        ([[1], [2], [3]], "expected 3 token"),
        ([1, 2, -1], r"got -1 at index 2"),
        ([1, V, 2], r"got 10 at index 1"),
        ([1.0, 2.0, 3.0], "integers"),
        (np.array([[1, -0.1], [2, -0.2]]), "expected 3 token"),
        ([TokenAction(1, -0.1), TokenAction(2, -0.2)], r"expected 3 action\(s\), got 2"),
        (np.array([[1, -0.1], [2.5, -0.2], [3, -0.3]]), "whole token ids"),
        (np.array([[1, -0.1], [2, 0.2], [3, -0.3]]), "got 0.2 at index 1"),
        (TokenAction([1, 2, 3], [-0.1, -0.2]), "expected 3 log-prob"),
    ],
    ids=repr,
)
def test_refused_for_rows(actions: Any, match: str):
    """CHECKS 10, for the vector environment: the message names the row."""
    with pytest.raises(InvalidAction, match=match):
        parse_actions(actions, 3, V)
