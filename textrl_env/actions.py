"""What `step` accepts as an action: a token id, alone or with the policy's log-probability of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from textrl_env.errors import InvalidAction
from textrl_env.foreign_text import shown

# A log-probability a little above 0 is rounding; more is a mistake, such as a probability or a reward passed instead.
LOG_PROB_SLACK = 1e-4


@dataclass(frozen=True)
class TokenAction:
    """A token with the log-probability (nats) the policy gave it: scalars, or arrays [N] for a vector environment.

    A float64 row `[token, log_prob]` says the same, for libraries that can pass on arrays alone.
    """

    token: Any
    log_prob: Any

    def __getitem__(self, row: int) -> TokenAction:
        """One row of a batch. Iterating goes over the rows too: Gymnasium's vector environments deal them out so."""
        return TokenAction(self.token[row], self.log_prob[row])


class ParsedActions(NamedTuple):
    """N checked actions."""

    tokens: np.ndarray  # int64 [N], all in [0, V)
    log_probs: np.ndarray  # float64 [N], NaN where not given
    charge_expected: bool = False  # whether the agent counts on this step to charge the KL


def parse_action(action: Any, vocab_size: int) -> ParsedActions:
    """One action of a single environment. Raises InvalidAction."""
    if hasattr(action, "log_prob"):  # a TokenAction, or a token that an adapter gave one
        tokens, log_probs = _array(action.token).reshape(-1), _array(action.log_prob).reshape(-1)
        return _with_expectation(_checked(tokens, log_probs, np.zeros(1, dtype=bool), vocab_size), action)
    array = _array(action)
    if array.shape == (2,) and array.dtype.kind == "f":
        array = array[None]
    elif array.shape != () and array.shape != (1,):
        raise InvalidAction(
            f"an action is one token id, TokenAction(token, log_prob) or a float row [token, log_prob]; "
            f"got {_show(action)}"
        )
    return parse_actions(array if array.ndim == 2 else array.reshape(1), 1, vocab_size)


def parse_actions(actions: Any, count: int, vocab_size: int, ignored: np.ndarray | None = None) -> ParsedActions:
    """`count` actions of a vector environment: ids [N], TokenAction of arrays [N], a list of them, or rows [N, 2].

    ignored: bool [N], rows whose action has no effect, whatever it is; it is parsed as token 0. Raises InvalidAction.
    """
    ignored = np.zeros(count, dtype=bool) if ignored is None else ignored
    if hasattr(actions, "log_prob"):  # a TokenAction, or tokens that an adapter gave them
        return _with_expectation(
            _checked(_array(actions.token), _array(actions.log_prob), ignored, vocab_size), actions
        )
    if isinstance(actions, (list, tuple)) and any(isinstance(action, TokenAction) for action in actions):
        if len(actions) != count:
            raise InvalidAction(f"expected {count} action(s), got {len(actions)}: {_show(actions)}")
        rows = zip(actions, ignored.tolist(), strict=True)
        pairs = [parse_action(0 if skipped else action, vocab_size) for action, skipped in rows]
        tokens, log_probs = (np.concatenate([pair[place] for pair in pairs]) for place in (0, 1))
        return ParsedActions(tokens, log_probs)
    array = _array(actions)
    if array.ndim == 2 and array.shape == (count, 2) and array.dtype.kind == "f":
        array = np.where(ignored[:, None], 0.0, array)
        whole = (np.floor(array[:, 0]) == array[:, 0]) & (np.abs(array[:, 0]) < 2**53)
        if not whole.all():
            raise InvalidAction(f"rows [token, log_prob] need whole token ids, got {_show(array[:, 0])}")
        return _checked(array[:, 0].astype(np.int64), array[:, 1], ignored, vocab_size)
    return _checked(array, None, ignored, vocab_size)


def _with_expectation(parsed: ParsedActions, given: Any) -> ParsedActions:
    return parsed._replace(charge_expected=getattr(given, "charge_expected", False))


def _array(value: Any) -> np.ndarray:
    try:
        if hasattr(value, "detach"):  # a tensor: on any device, of any precision, with any lazy sign
            value = value.detach()
            value = (value.float() if value.is_floating_point() and value.itemsize < 4 else value).numpy(force=True)
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidAction(f"actions must form an array, got {_show(value)}: {error}") from None


def _checked(tokens: np.ndarray, log_probs: np.ndarray | None, ignored: np.ndarray, vocab_size: int) -> ParsedActions:
    count = len(ignored)
    if tokens.shape != (count,):
        raise InvalidAction(
            f"expected {count} token id(s), shape ({count},); got shape {tokens.shape}: {_show(tokens)}"
        )
    if tokens.dtype.kind not in "iu":
        raise InvalidAction(f"token ids must be integers, got {tokens.dtype}: {_show(tokens)}")
    outside = ((tokens < 0) | (tokens >= vocab_size)) & ~ignored
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise InvalidAction(f"token ids must be in [0, {vocab_size}), got {tokens[row]} at index {row}")
    tokens = np.where(ignored, 0, tokens).astype(np.int64)
    if log_probs is None:
        return ParsedActions(tokens, np.full(count, np.nan))
    if log_probs.shape != (count,) or log_probs.dtype.kind not in "fiu":
        raise InvalidAction(f"expected {count} log-probability(ies), shape ({count},); got {_show(log_probs)}")
    log_probs = np.where(ignored, 0.0, log_probs).astype(np.float64)
    wrong = (log_probs > LOG_PROB_SLACK) | ~np.isfinite(log_probs)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InvalidAction(
            f"log-probabilities must be finite and <= 0, got {log_probs[row]} at index {row}. "
            "Pass log pi(token | state), not a probability; where it is not known, pass the token id alone."
        )
    return ParsedActions(tokens, log_probs)


def _show(value: Any) -> str:
    return f"{type(value).__name__} {shown(value, 120)}"
