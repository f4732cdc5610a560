"""TRL's unpaired preferences, as KTO learns from: `prompt`, `completion` and whether it is good (`label`).

A label is a rating of one attribute, 5 for True and 1 for False. A comparison is written as two rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textrl_env.preferences.formats.format import (
    CannotHold,
    Format,
    LeftOut,
    Row,
    decided,
    other_columns,
    taken,
    with_columns,
)
from textrl_env.preferences.formats.trl import answer, completion
from textrl_env.preferences.records import RATINGS, Candidate, Comparison, Rating, Record

ATTRIBUTE = "desirable"
OWN_COLUMNS = ("prompt", "completion", "label")


def read(row: Row) -> list[Record]:
    """A rating of the attribute `ATTRIBUTE`."""
    prompt = taken(row, "prompt", (str, list), "a text or messages")
    text = taken(row, "completion", (str, list), "a text or messages")
    if isinstance(text, list):
        text = answer([], text, "completion")
    value = RATINGS[-1] if taken(row, "label", bool, "true or false") else RATINGS[0]
    columns = other_columns(row, *OWN_COLUMNS)
    return [Rating(prompt=prompt, candidates=(Candidate(text),), ratings={ATTRIBUTE: value}, columns=columns)]


def write(records: Iterable[Record], left_out: LeftOut) -> Iterator[Row]:
    """Two rows for each comparison with a better response, and one for each rating that is a label."""
    for record in records:
        try:
            for text, label in _labels(record):
                row = {"prompt": record.prompt, "completion": completion(record.prompt, text), "label": label}
                yield with_columns(row, record.columns)
        except CannotHold as reason:
            left_out[str(reason)] += 1


def _labels(record: Record) -> list[tuple[str, bool]]:
    if isinstance(record, Comparison):
        record = decided(record)
        return [(record.chosen.text, True), (record.rejected.text, False)]
    if isinstance(record, Rating):
        if record.ratings.get(ATTRIBUTE) not in (RATINGS[0], RATINGS[-1]):
            raise CannotHold(f"a rating without {ATTRIBUTE!r} of {RATINGS[0]} or {RATINGS[-1]}")
        return [(record.candidates[0].text, record.ratings[ATTRIBUTE] == RATINGS[-1])]
    raise CannotHold(f"a {type(record).__name__.lower()}")


UNPAIRED = Format(
    name="trl-unpaired",
    holds=f"comparisons as two labels, and ratings of {ATTRIBUTE!r}",
    matches=lambda rows: {"prompt", "completion", "label"} <= rows[0].keys(),
    read=read,
    write=write,
)
