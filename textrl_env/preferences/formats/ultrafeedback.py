"""UltraFeedback: an instruction with several completions, each rated 1 to 5 in several respects.

From Cui et al. 2023 (https://arxiv.org/abs/2310.01377). A row's keys are `instruction` and `completions`; those of a
completion `response`, `model`, `principle`, `custom_system_prompt`, `critique`, and `annotations`, of which each is a
respect with its `Rating`. A respect rated "N/A" is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.preferences.formats.format import (
    CannotHold,
    Format,
    LeftOut,
    Row,
    one_text,
    other_columns,
    taken,
    with_columns,
)
from textrl_env.preferences.records import Candidate, Rating, Record

MADE_BY = ("principle", "custom_system_prompt")  # how a completion was asked for
NOT_RATED = ("N/A", "", None)


def read(row: Row) -> list[Record]:
    """A rating for each completion that has one."""
    prompt = taken(row, "instruction", str, "a text")
    columns = other_columns(row, "instruction", "completions", "models")
    records: list[Record] = []
    for number, completion in enumerate(taken(row, "completions", list, "a list")):
        try:
            records += _ratings(prompt, columns, completion)
        except ConfigError as error:
            raise ConfigError(f"completion {number}: {error}") from error
    return records


def _ratings(prompt: str, columns: dict[str, Any], completion: Any) -> list[Record]:
    if not isinstance(completion, Mapping):
        raise ConfigError(f"expected an object with a 'response', got {shown(completion)}")
    annotations = taken(completion, "annotations", Mapping, "an object")
    values = {name: found.get("Rating") if isinstance(found, Mapping) else found for name, found in annotations.items()}
    ratings = {name: _whole(name, value) for name, value in values.items() if value not in NOT_RATED}
    if not ratings:
        return []
    candidate = Candidate(
        taken(completion, "response", str, "a text"),
        completion.get("model"),
        {name: completion[name] for name in MADE_BY if completion.get(name) is not None},
    )
    comment = completion.get("critique") or None
    return [Rating(prompt=prompt, candidates=(candidate,), ratings=ratings, columns=columns, comment=comment)]


def _whole(name: str, value: Any) -> int:
    try:
        return int(value) if isinstance(value, str) else value  # `Rating` refuses what is no whole number
    except ValueError:
        raise ConfigError(f"the rating of {shown(name)} must be 1 to 5, got {shown(value)}") from None


def write(records: Iterable[Record], left_out: LeftOut) -> Iterator[Row]:
    """A row for ratings of one prompt by one annotator that come one after the other."""

    def same_row(record: Record) -> tuple[Any, ...]:
        return record.prompt, record.columns, record.annotator

    ratings = _held(records, left_out)
    for (prompt, columns, _), group in itertools.groupby(ratings, key=same_row):
        completions = [_completion(rating) for rating in group]
        models = [completion.get("model") for completion in completions]
        row = {"instruction": one_text(prompt), "models": models, "completions": completions}
        yield with_columns(row, columns)


def _held(records: Iterable[Record], left_out: LeftOut) -> Iterator[Rating]:
    for record in records:
        try:
            if not isinstance(record, Rating):
                raise CannotHold(f"a {type(record).__name__.lower()}")
            one_text(record.prompt)
            with_columns(dict.fromkeys(("instruction", "models", "completions")), record.columns)
            yield record
        except CannotHold as reason:
            left_out[str(reason)] += 1


def _completion(rating: Rating) -> dict[str, Any]:
    candidate = rating.candidates[0]
    annotations = {name: {"Rating": str(value)} for name, value in rating.ratings.items()}
    made = {name: candidate.sampling[name] for name in MADE_BY if name in candidate.sampling}
    completion = {"model": candidate.model, **made, "response": candidate.text, "annotations": annotations}
    return {**completion, "critique": rating.comment} if rating.comment else completion


ULTRAFEEDBACK = Format(
    name="ultrafeedback",
    holds="ratings of several responses to a prompt, their models, comments",
    matches=lambda rows: {"instruction", "completions"} <= rows[0].keys(),
    read=read,
    write=write,
)
