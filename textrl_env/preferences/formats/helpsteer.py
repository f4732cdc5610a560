"""HelpSteer's columns: a prompt, a response and five attributes, each 0 to 4 (https://arxiv.org/abs/2311.09528).

Here a rating is 1 to 5, so 1 is added. Files that others made with the same columns from 1 to 5 are a format of their
own; a file in which a 5 occurs is taken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.preferences.formats.format import (
    CannotHold,
    Format,
    Row,
    one_text,
    other_columns,
    taken,
    with_columns,
    writer,
)
from textrl_env.preferences.records import RATINGS, Candidate, Rating, Record

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def matches(rows: Sequence[Row]) -> bool:
    """Whether rows are a prompt, a response, and at least one of the attributes."""
    return {"prompt", "response"} <= rows[0].keys() and any(name in rows[0] for name in ATTRIBUTES)


def _format(name: str, lowest: int, matches_rows: Callable[[Sequence[Row]], bool]) -> Format:
    """The format whose lowest value is `lowest`."""
    shift = RATINGS[0] - lowest
    highest = RATINGS[-1] - shift

    def read(row: Row) -> list[Record]:
        """A rating."""
        ratings = {}
        for attribute in ATTRIBUTES:
            value = row.get(attribute)
            if value is None:
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or value not in range(lowest, highest + 1):
                raise ConfigError(f"{attribute!r} must be {lowest} to {highest}, got {shown(value)}")
            ratings[attribute] = int(value) + shift
        candidate = Candidate(taken(row, "response", str, "a text"))
        prompt = taken(row, "prompt", str, "a text")
        columns = other_columns(row, "prompt", "response", *ATTRIBUTES)
        return [Rating(prompt=prompt, candidates=(candidate,), ratings=ratings, columns=columns)]

    def row_of(record: Rating) -> Row:
        if unknown := record.ratings.keys() - set(ATTRIBUTES):
            raise CannotHold(f"a rating of {min(unknown)!r}")
        ratings = {attribute: value - shift for attribute, value in record.ratings.items()}
        row = {"prompt": one_text(record.prompt), "response": record.candidates[0].text, **ratings}
        return with_columns(row, record.columns, *ATTRIBUTES)

    return Format(
        name=name,
        holds=f"ratings of {', '.join(ATTRIBUTES)}, {lowest} to {highest}",
        matches=matches_rows,
        read=read,
        write=writer(row_of, Rating),
    )


HELPSTEER = _format("helpsteer", 0, matches)
HELPSTEER_1_TO_5 = _format(
    "helpsteer-1-5",
    1,
    lambda rows: matches(rows) and any(row.get(name) == RATINGS[-1] for row in rows for name in ATTRIBUTES),
)
