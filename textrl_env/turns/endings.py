"""What follows a turn that is over: the answer, the turn's reward, and whether the episode goes on behind a bridge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.turns.rows import TurnRows
from textrl_env.turns.turn_env import Reply


class TurnOver(NamedTuple):
    """A turn that a row's newest token ends."""

    row: int
    ids: list[int]  # of the episode so far, the newest among them
    sampled: list[int]  # those of the turn
    reason: str  # "eos", "stop" or "length"
    room: int  # tokens that the episode may still have


class TurnEnd(NamedTuple):
    """What follows it."""

    reward: float
    finish_reason: str  # "env", "turns" or "length" where the episode is over; else ""
    truncated: bool  # by a time-out of the turn environment
    appended: list[int]  # what the environment writes behind the turn
    record: dict[str, Any]  # what `info` says of the turn
    success: bool | None


def answer_turns(turns: TurnRows, over: Sequence[TurnOver], vocabulary_size: int) -> list[TurnEnd]:
    """Have turns answered, all of them at once.

    An episode ends as its turn environment says, else at the last turn that is allowed, else where another token behind
    the answer would not fit. What was written until a limit is a turn like any other.

    Raises what `TurnRows.ask` raises, and ConfigError where a bridge of the user's gives no ids.
    """
    texts = [turns.rules.bridge.parse(turn.sampled) for turn in over]
    replies = turns.ask([turn.row for turn in over], texts)
    return [
        _end(turns, turn, text, reply, vocabulary_size) for turn, text, reply in zip(over, texts, replies, strict=True)
    ]


def _end(turns: TurnRows, turn: TurnOver, text: str, reply: Reply, vocabulary_size: int) -> TurnEnd:
    reason, appended = "", []
    if reply.terminated:
        reason = "env"
    elif not reply.truncated and len(turns.records[turn.row]) + 1 >= turns.rules.max_turns:
        reason = "turns"
    else:
        answer = [{"role": reply.role, "content": reply.message}]
        appended = _checked_ids(turns.rules.bridge.extend(turn.ids, answer), vocabulary_size)
        if len(appended) >= turn.room:
            appended, reason = [], "" if reply.truncated else "length"
    record = {
        "action": text,
        "reply": reply.message,
        "role": reply.role,
        "score": reply.reward,
        "score_parts": reply.score_parts,
        "tokens": len(turn.sampled),
        "finish_reason": turn.reason,
    }
    truncated = reply.truncated and not reply.terminated
    return TurnEnd(reply.reward, reason, truncated, appended, record, reply.success)


def part_sums(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Each named part of the turns' rewards, summed over turns; a turn that does not name it adds nothing."""
    sums: dict[str, float] = {}
    for record in records:
        for name, part in record["score_parts"].items():
            sums[name] = sums.get(name, 0.0) + part
    return sums


def transcript(records: Sequence[Mapping[str, Any]]) -> str:
    """A dialogue's turns as one text, from the first answer to the last; what answers each follows it on its own line.

    An answer of the environment behind the last turn is not part of it: the policy never saw it.
    """
    said = []
    for place, record in enumerate(records):
        said.append(record["action"] if place == 0 else f"assistant: {record['action']}")
        said.append(f"{record['role']}: {record['reply']}")
    return "\n".join(said[:-1])


def _checked_ids(ids: Any, vocabulary_size: int) -> list[int]:
    """A bridge's ids. One of the user's own may give anything."""
    try:
        listed = [int(token) for token in ids]
    except (TypeError, ValueError):
        listed = [-1]
    if any(not 0 <= token < vocabulary_size for token in listed):
        raise ConfigError(
            f"the bridge's extend() gave {shown(ids)}; expected a list of token ids in [0, {vocabulary_size})"
        )
    return listed
