"""Demonstrations to imitate, read from the shapes that TRL's SFT takes: a prompt and its response, or a whole chat.

{"prompt": text or chat, "completion": text or chat}     "response" is another name of "completion"
{"messages": chat}                                       every answer of the assistant is a response
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textrl_env.errors import PromptError
from textrl_env.foreign_text import names_shown, shown
from textrl_env.text.prompt_rows import PREFIX, PromptText, check_chat, check_row, load_prompt_dataset
from textrl_env.text.tokenization import check_text
from textrl_env.user_values import user_path

SUFFIXES = (".jsonl", ".json", ".parquet")
RESPONSE_NAMES = ("completion", "response")
ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """A response, and what it answers: a text, or a chat's messages up to it."""

    prompt: PromptText
    response: str


@dataclass(frozen=True)
class Example:
    """One demonstration: a prompt with its response, or the answers of one chat, in their order.

    where: its place in the source, such as "data.jsonl, line 3".
    """

    turns: tuple[Turn, ...]
    where: str

    @property
    def prompt(self) -> PromptText:
        """What it begins with. Examples with the same beginning stand on the same side of a split."""
        return self.turns[0].prompt


def read_examples(source: Any) -> list[Example]:
    """Read all demonstrations of a source.

    source: the path of a .jsonl, .json or .parquet file or of a folder that `datasets` has saved,
        "datasets:<hub id or folder>[:split]", a `datasets.Dataset`, or a list of rows.

    Raises PromptError that names the line or row of the first that is malformed, and where there are none.
    """
    if isinstance(source, str) and source.startswith(PREFIX):
        items: Iterable[tuple[str, Any]] = _numbered(load_prompt_dataset(source), source)
    elif isinstance(source, (str, Path)):
        items = _read_path(user_path(source))
    elif isinstance(source, Mapping) or not hasattr(source, "__iter__"):
        raise PromptError(f"data must be a file, a data set or a list of rows, got {shown(source)}")
    else:
        items = _numbered(source, "the data")
    examples = [_example(item, where) for where, item in items]
    if not examples:
        raise PromptError(f"{shown(source, 200)} holds no demonstrations; give at least one prompt with a response")
    return examples


def _numbered(rows: Iterable[Any], name: str) -> Iterator[tuple[str, Any]]:
    return ((f"{name}, row {number}", row) for number, row in enumerate(rows, start=1))


def _read_path(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        yield from _numbered(load_prompt_dataset(f"{PREFIX}{path}"), str(path))
        return
    if path.suffix not in SUFFIXES:
        raise PromptError(
            f"data {shown(str(path), 200)} must be a {', '.join(SUFFIXES)} file, a folder that datasets has saved, or "
            f"{PREFIX}<hub id>"
        )
    if not path.is_file():
        raise PromptError(f"data {shown(str(path), 200)}: no such file")
    if path.suffix == ".parquet":
        yield from _numbered(_parquet_rows(path), str(path))
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8: {error}") from error
    if path.suffix == ".json" and text.lstrip().startswith("["):
        yield from _numbered(_parsed(text, str(path)), str(path))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parsed(line, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise PromptError(f"{where} is nested too deep to be read") from None
    except ValueError as error:
        raise PromptError(f"{where} is no JSON: {error}") from None


def _parquet_rows(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptError(f"{path} cannot be read as Parquet: {error}") from error
    return rows


def _example(row: Any, where: str) -> Example:
    if not isinstance(row, Mapping):
        raise PromptError(f"{where} must be an object with a prompt and a completion, or messages; got {shown(row)}")
    if "messages" in row:
        if "prompt" in row:
            raise PromptError(f"{where} has both 'messages' and 'prompt'; give one of them")
        turns = _answers(row["messages"], 0, where)
    else:
        turns = _answered(row, where)
    if not turns:
        raise PromptError(f"{where} has no message of the {ASSISTANT} that answers another message; nothing to learn")
    return Example(tuple(turns), where)


def _answered(row: Mapping[str, Any], where: str) -> list[Turn]:
    """The responses of a row with a prompt and a completion."""
    names = [name for name in RESPONSE_NAMES if name in row]
    if "prompt" not in row or len(names) != 1:
        raise PromptError(
            f"{where} needs 'prompt' and one of {' or '.join(map(repr, RESPONSE_NAMES))}, or 'messages'; its keys are "
            f"{names_shown(row)}"
        )
    prompt, response = row["prompt"], row[names[0]]
    check_row(prompt, {}, where)
    if isinstance(response, str):
        check_text(response, where)
        return [Turn(prompt if isinstance(prompt, str) else _messages(prompt, where), response)]
    if isinstance(prompt, str):
        raise PromptError(f"{where}: to a text as prompt belongs a text as {names[0]}, got {shown(response)}")
    return _answers([*prompt, *_messages(response, where)], len(prompt), where)


def _answers(messages: Any, first: int, where: str) -> list[Turn]:
    """The assistant's messages at place `first` and behind it, each with what is before it."""
    chat = _messages(messages, where)
    return [
        Turn(chat[:place], message["content"])
        for place, message in enumerate(chat)
        if place >= max(first, 1) and message["role"] == ASSISTANT
    ]


def _messages(messages: Sequence[Any], where: str) -> list[dict[str, Any]]:
    check_chat(messages, where)
    return [dict(message) for message in messages]
