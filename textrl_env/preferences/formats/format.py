"""What an exchange format is: how its rows are told, read as records, and written from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import names_shown, shown
from textrl_env.preferences.records import Comparison, Record
from textrl_env.rewards.protocol import Text

Row = Mapping[str, Any]
LeftOut = Counter[str]
"""Why records were not written -> how many."""


@dataclass(frozen=True)
class Format:
    """One format of feedback.

    holds: what it can hold, in a few words. matches: whether the rows of a file look like it.
    read: the records of one row; raises ConfigError where it is malformed. write: the rows of records; those that it
    cannot hold are counted. is_document: whether a file is one JSON list instead of a line for each row.
    """

    name: str
    holds: str
    matches: Callable[[Sequence[Row]], bool]
    read: Callable[[Row], list[Record]]
    write: Callable[[Iterable[Record], LeftOut], Iterator[Row]]
    is_document: bool = False


class CannotHold(Exception):
    """Raised inside a format for a record that it has no place for; its message says why."""


def writer(row_of: Callable[[Any], Row], *kinds: type[Record]) -> Callable[[Iterable[Record], LeftOut], Iterator[Row]]:
    """The `write` of a format with a row for each record of these kinds. row_of: raises CannotHold."""

    def write(records: Iterable[Record], left_out: LeftOut) -> Iterator[Row]:
        for record in records:
            try:
                if not isinstance(record, kinds):
                    raise CannotHold(f"a {type(record).__name__.lower()}")
                yield row_of(record)
            except CannotHold as reason:
                left_out[str(reason)] += 1

    return write


def decided(record: Comparison) -> Comparison:
    """The comparison itself. Raises CannotHold where no response is the better one."""
    if record.preferred is None:
        raise CannotHold("a comparison that was skipped" if record.skipped else "a tie")
    return record


def taken(row: Row, name: str, kind: type | tuple[type, ...], what: str) -> Any:
    """The value of a key. Raises ConfigError where it is missing or of another type. what: the type's name."""
    if name not in row:
        raise ConfigError(f"there is no key {name!r}; the keys are {names_shown(row)}")
    value = row[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name!r} must be {what}, got {shown(value)}")
    return value


def with_columns(row: dict[str, Any], columns: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """A row with the prompt's other columns.

    own: names that the format reads as its own though this row does without, such as a margin. Raises CannotHold where
    a column has one of them, or one that the row uses.
    """
    if clash := columns.keys() & {*row, *own}:
        raise CannotHold(f"a prompt with a column named {min(clash)!r}")
    return {**row, **columns}


def other_columns(row: Row, *own: str) -> dict[str, Any]:
    """The columns of a row that the format itself does not use."""
    return {name: value for name, value in row.items() if name not in own}


def one_text(prompt: Text) -> str:
    """A prompt as one text: itself, or the only message of a user. Raises CannotHold for any other chat."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return str(prompt[0]["content"])
    raise CannotHold("a chat of several messages")
