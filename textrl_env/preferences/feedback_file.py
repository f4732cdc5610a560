"""Files of feedback: rows are read with their line numbers, and records are written in any format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, shown
from textrl_env.preferences.formats.format import Format, LeftOut, Row
from textrl_env.preferences.formats.registry import detected
from textrl_env.preferences.record_json import encoded
from textrl_env.preferences.records import Record


def read_feedback(
    path: str | Path, format: Format | None = None, *, advanced: Callable[[int, int], None] = lambda done, of: None
) -> tuple[list[Record], Format]:
    """All records of a file, and the format that it has.

    path: JSON lines, or one JSON list. format: None for the one that the rows look like. advanced: called with the
    rows read so far, and how many there are.

    Raises ConfigError that names the file and the line (or the item of the list) where something is malformed.
    """
    path = Path(path)
    places, rows = [], []
    for where, row in _rows(path):
        places.append(where)
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path} holds no feedback: it is empty")
    if format is None:
        try:
            format = detected(rows)
        except ConfigError as error:
            raise ConfigError(f"{places[0]}: {error}") from error
    records: list[Record] = []
    for done, (where, row) in enumerate(zip(places, rows, strict=True), 1):
        try:
            records += format.read(row)
        except (ConfigError, RecursionError) as error:
            raise ConfigError(f"{where} is no {format.name} row: {message_of(error)}") from error
        advanced(done, len(rows))
    return records, format


def write_feedback(file: IO[str], records: Iterable[Record], format: Format) -> tuple[int, LeftOut]:
    """Write records to an open file; return how many rows it got, and which records the format could not hold."""
    left_out: LeftOut = Counter()
    count = 0
    between = ("[\n", ",\n", "\n]\n") if format.is_document else ("", "\n", "\n")
    for row in format.write(records, left_out):
        file.write(between[min(count, 1)])
        file.write(encoded(row))
        count += 1
    if count:
        file.write(between[2])
    elif format.is_document:
        file.write("[]\n")
    return count, left_out


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where, row) of every line that is not empty, or of every item of one JSON list."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if text.lstrip().startswith("["):
        items = _parsed(text, str(path))
        numbered = ((f"{path}, item {number}", item) for number, item in enumerate(items))
    else:
        lines = ((f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        numbered = ((where, _parsed(line, where)) for where, line in lines)
    for where, row in numbered:
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} must be a JSON object, got {shown(row)}")
        yield where, row


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ConfigError(f"{where} is nested too deep to be read") from None
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
