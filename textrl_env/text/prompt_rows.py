"""Rows of prompts: what a list, a file or a data set holds, checked and not yet encoded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textrl_env.errors import MissingExtra, PromptError, UnknownName
from textrl_env.foreign_text import names_shown, shown
from textrl_env.text.tokenization import check_messages, check_text

PromptText = str | list[dict[str, Any]]
Row = tuple[PromptText, dict[str, Any]]  # the prompt and its other columns

PREFIX = "datasets:"  # of the name of a data set
# What a reward gets besides the columns.
RESERVED_COLUMNS = ("prompts", "completions", "completion_ids", "finish_reason")


def prompt_text(prompt: PromptText) -> str:
    """Write a prompt as one text: a chat as `role: content` turns."""
    if isinstance(prompt, str):
        return prompt
    return " / ".join(f"{message['role']}: {message['content']}" for message in prompt)


class PromptRows(Sequence[Row]):
    """Rows in memory, all with the same columns."""

    def __init__(self, rows: list[Row]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]

    @property
    def column_names(self) -> frozenset[str]:
        """Names of the columns that every row has besides the prompt."""
        return frozenset(self._rows[0][1]) if self._rows else frozenset()

    def selected(self, places: Sequence[int]) -> PromptRows:
        """The rows at these places, in this order."""
        return PromptRows([self._rows[place] for place in places])


class DatasetRows(PromptRows):
    """Rows of a `datasets.Dataset`, read when they are used: it may be larger than memory.

    places: which of the data set's rows count; None for all.
    """

    def __init__(self, dataset: Any, places: Sequence[int] | None = None):
        if isinstance(dataset.column_names, Mapping):
            splits = list(dataset.column_names)
            raise PromptError(f"got a data set with the splits {splits}; choose one: dataset[{splits[0]!r}]")
        if "prompt" not in dataset.column_names:
            raise PromptError(
                f"the data set has no column 'prompt'; its columns are {list(dataset.column_names)}. "
                "Rename one: dataset.rename_column(..., 'prompt')"
            )
        check_columns(dataset.column_names, "the data set")
        self._dataset, self._places = dataset, places

    @property
    def column_names(self) -> frozenset[str]:
        """Names of the columns that every row has besides the prompt."""
        return frozenset(self._dataset.column_names) - {"prompt"}

    def __len__(self) -> int:
        return len(self._dataset) if self._places is None else len(self._places)

    def __getitem__(self, place: Any) -> Any:
        at = place if self._places is None else self._places[place]
        return _row(self._dataset[at], f"prompt {at}")

    def __iter__(self) -> Iterator[Row]:
        if self._places is not None:
            return (self[place] for place in range(len(self)))
        # A data set reads its rows in batches where all of them are asked for.
        return (_row(item, f"prompt {at}") for at, item in enumerate(self._dataset))

    def selected(self, places: Sequence[int]) -> DatasetRows:
        """The rows at these places, in this order; none is read."""
        return DatasetRows(self._dataset, [at if self._places is None else self._places[at] for at in places])


def load_rows(source: Any) -> PromptRows:
    """The rows of any source that `PromptSet` takes. Raises PromptError where it is malformed."""
    if isinstance(source, PromptRows):
        return source
    if hasattr(source, "column_names") and hasattr(source, "__getitem__"):
        return DatasetRows(source)
    if isinstance(source, str) and source.startswith(PREFIX):
        return DatasetRows(load_prompt_dataset(source))
    if isinstance(source, (str, Path)):
        return _checked_rows(_read_file(Path(source)))
    if not isinstance(source, Sequence) or isinstance(source, bytes):
        raise PromptError(
            "prompts must be a list, the path of a .jsonl or .txt file, or a datasets.Dataset (or its name, "
            f"'{PREFIX}...'); got {type(source).__name__}"
        )
    if source and all(isinstance(item, Mapping) and {"role", "content"} <= item.keys() for item in source):
        raise PromptError("got one chat where a list of chats is expected; put it in a list: [messages]")
    return _checked_rows((f"prompt {index}", item) for index, item in enumerate(source))


def check_row(text: Any, columns: Mapping[str, Any], where: str) -> None:
    """Raise PromptError that begins with `where` unless it is a text or a chat, with columns that a reward can get."""
    check_columns(columns, where)
    if isinstance(text, str):
        check_text(text, where)
        return
    if not isinstance(text, (list, tuple)):
        raise PromptError(
            f"{where} must be a text or a list of chat messages, got {type(text).__name__}: {shown(text)}"
        )
    check_chat(text, where)


def check_chat(messages: Any, where: str) -> None:
    """Raise PromptError that begins with `where` unless these are a chat's messages, whose texts can be encoded."""
    try:
        check_messages(messages)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None
    for message in messages:
        for value in message.values():
            if isinstance(value, str):
                check_text(value, where)


def check_columns(names: Iterable[Any], where: str) -> None:
    """Raise PromptError where a column's name is no text, or one under which rewards get something else."""
    for name in names:
        if not isinstance(name, str):
            raise PromptError(f"{where} has a column {shown(name)}; the names of columns must be texts")
        if name in RESERVED_COLUMNS:
            raise PromptError(f"{where} has a column {name!r}, a name that rewards get for something else; rename it")


def _checked_rows(items: Iterable[tuple[str, Any]]) -> PromptRows:
    """Rows from (where, item) pairs; all of them must have the same columns."""
    rows: list[Row] = []
    for where, item in items:
        row = _row(item, where)
        if rows and row[1].keys() != rows[0][1].keys():
            raise PromptError(
                f"{where} has the columns {names_shown(row[1])}, but the first has {names_shown(rows[0][1])}; "
                "every row needs the same ones"
            )
        rows.append(row)
    return PromptRows(rows)


def _row(item: Any, where: str) -> Row:
    if not isinstance(item, Mapping):
        text, columns = item, {}
    elif "prompt" not in item:
        raise PromptError(f"{where} has no key 'prompt'; its keys are {names_shown(item)}")
    else:
        text = item["prompt"]
        columns = {name: value for name, value in item.items() if name != "prompt"}
    check_row(text, columns, where)
    return (text if isinstance(text, str) else [dict(message) for message in text]), columns


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, item) of every line that is not empty."""
    file = shown(str(path), 200)
    try:
        if path.suffix not in (".jsonl", ".txt") or not path.is_file():
            why = "no such file" if path.suffix in (".jsonl", ".txt") else "not a .jsonl or .txt file"
            raise PromptError(f"prompts {file}: {why}. For a single prompt, put it in a list: [{file}]")
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:  # also a name that is too long for a file
        raise PromptError(f"prompts {file} cannot be read: {error.strerror}") from error
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r")
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if path.suffix == ".txt":
            yield where, line
            continue
        try:
            yield where, json.loads(line)
        except RecursionError:
            raise PromptError(f"{where} is nested too deep to be read") from None
        except ValueError as error:  # not JSON, or a number of more digits than Python reads
            raise PromptError(f"{where} is not JSON: {error}") from error


def load_prompt_dataset(source: str) -> Any:
    """Load the `datasets.Dataset` that `source` names, such as "datasets:my/prompts:validation".

    The split is "train" where none is named. A folder is read with `load_from_disk` where `save_to_disk` wrote it, else
    as a folder of data files. Anything else is a data set's id on the hub. No code of a data set is run.

    Raises MissingExtra where the package datasets is not installed, UnknownName where the data set has no such split,
    and PromptError where it cannot be loaded; the message says why.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    name, split = _name_and_split(source)
    try:
        folder = Path(name).expanduser()
        # `save_to_disk` wrote one of these.
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
        else:
            # From version 4 on there is no code to run; before, a data set's own script has to be refused.
            refuse = {"trust_remote_code": False} if int(datasets.__version__.split(".")[0]) < 4 else {}
            loaded = datasets.load_dataset(name, **refuse)
    except Exception as error:
        raise PromptError(
            f"prompts {source!r}: the data set {name!r} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(loaded, dict):  # saved without splits
        if split is not None:
            raise PromptError(f"prompts {source!r}: the data set in {name!r} has no splits; leave out {':' + split!r}")
        return loaded
    split = split or "train"
    if split not in loaded:
        raise UnknownName(f"split of the data set {name!r}", split, loaded)
    return loaded[split]


def _name_and_split(source: str) -> tuple[str, str | None]:
    """The id or folder, and the split where one is named. A colon before a slash is part of a path."""
    whole = source.removeprefix(PREFIX)
    name, colon, split = whole.rpartition(":")
    has_split = bool(colon) and "/" not in split and "\\" not in split
    if not (name and split if has_split else whole):
        raise PromptError(f"prompts {source!r}: expected {PREFIX}<hub id or folder>[:split]")
    return (name, split) if has_split else (whole, None)
