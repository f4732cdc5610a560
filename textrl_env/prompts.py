"""Prompts: where they come from, how they are encoded, and how one is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textrl_env.errors import ConfigError, PromptError, PromptTooLong, UnknownName
from textrl_env.prompt_datasets import PREFIX, load_prompt_dataset
from textrl_env.tokenization import check_messages, encode_chat, encode_prompt_text

PromptText = str | list[dict[str, Any]]

RESERVED_COLUMNS = ("prompts", "completions", "completion_ids")  # what a reward gets besides the columns


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt, ready to be continued."""

    text: PromptText  # what the reward gets: a text, or a list of chat messages
    ids: np.ndarray  # int64 [p], 1 <= p <= max_prompt_tokens, read-only
    columns: dict[str, Any]  # the row's other values, passed on to the reward
    index: int  # its place in the set; -1 where it is not from one


class PromptSet:
    """A fixed set of prompts, each encoded when it is first used.

    Args:
        source: One of
            - a list of texts, or of chats (lists of `{"role", "content"}` messages),
            - a list of dicts `{"prompt": text or chat, ...}`, whose other values are passed on to the reward,
            - the path of a `.jsonl` file with one such text, chat or dict a line, or of a `.txt` file with a
              text a line (empty lines are skipped),
            - a `datasets.Dataset` with a column `prompt`, or its name, `"datasets:<hub id or folder>[:split]"`.
        tokenizer: A Hugging Face tokenizer; needs a chat template where there are chats.
        max_prompt_tokens: The longest prompt, in tokens.
        overflow: What is done with a longer one: `"truncate"` drops its oldest tokens, but for a BOS in
            front; `"error"` raises `PromptTooLong`.

    Raises:
        PromptError: The source is empty or malformed; the message names the row, and the file's line where it
            is one.
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        overflow: Literal["truncate", "error"] = "truncate",
    ):
        is_count = isinstance(max_prompt_tokens, (int, np.integer)) and not isinstance(max_prompt_tokens, bool)
        if not is_count or max_prompt_tokens < 1:
            raise ConfigError(f"max_prompt_tokens must be an integer >= 1, got {max_prompt_tokens!r}")
        if overflow not in ("truncate", "error"):
            raise UnknownName("overflow", overflow, ("truncate", "error"))
        self.tokenizer = tokenizer
        self.max_prompt_tokens = int(max_prompt_tokens)
        self.overflow = overflow
        self._rows = _rows(source)
        self._encoded: dict[int, Prompt] = {}
        if len(self._rows) == 0:
            raise PromptError("the prompt source is empty; give at least one prompt")
        if isinstance(self._rows, list) and tokenizer.bos_token_id is None:
            for index, (text, _) in enumerate(self._rows):  # better now than in the middle of a run
                if text == "":
                    self[index]

    @property
    def column_names(self) -> frozenset[str]:
        """The names of the columns that every prompt of the set has."""
        return self._rows.column_names if isinstance(self._rows, _DatasetRows) else frozenset(self._rows[0][1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Prompt:
        """The prompt at `index`; the same object every time."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"prompt {index} of a set of {len(self)}")
        index = int(index) % len(self)
        if index not in self._encoded:
            text, columns = self._rows[index]
            self._encoded[index] = self._encode(text, columns, index)
        return self._encoded[index]

    def __iter__(self) -> Iterator[Prompt]:
        return (self[index] for index in range(len(self)))

    def sample(self, np_random: np.random.Generator) -> Prompt:
        """A uniformly drawn prompt, with replacement: one `integers` draw of the generator."""
        return self[int(np_random.integers(len(self)))]

    def encode(self, text: PromptText, columns: Mapping[str, Any] | None = None) -> Prompt:
        """A prompt that is not from the set, under the same rules; its index is -1.

        Args:
            text: A text or a list of chat messages.
            columns: Its other values, under the names that the set's rows have: one batch may hold both.

        Raises:
            PromptError: It is neither a text nor a well-formed chat, or its columns are not the set's.
        """
        columns = dict(columns or {})
        _check_row(text, columns, "the prompt")
        if columns.keys() != self.column_names:
            raise PromptError(
                f"the prompt has the columns {sorted(columns)}, but the set's prompts have "
                f"{sorted(self.column_names)}; give exactly these, the reward gets them"
            )
        return self._encode(text, columns, -1)

    def _encode(self, text: PromptText, columns: dict[str, Any], index: int) -> Prompt:
        try:
            if isinstance(text, str):
                ids = encode_prompt_text(self.tokenizer, text)
            else:
                ids = encode_chat(self.tokenizer, text)
        except PromptError as error:
            raise type(error)(f"{_place(index)}: {error}") from error
        array = np.asarray(self._fitted(ids, index), dtype=np.int64)
        array.setflags(write=False)
        return Prompt(text, array, columns, index)

    def _fitted(self, ids: list[int], index: int) -> list[int]:
        limit = self.max_prompt_tokens
        if len(ids) <= limit:
            return ids
        if self.overflow == "error":
            raise PromptTooLong(
                f"{_place(index)} has {len(ids)} tokens, more than max_prompt_tokens={limit}; "
                "raise max_prompt_tokens, or pass overflow='truncate' to keep its newest tokens"
            )
        has_bos = self.tokenizer.bos_token_id is not None and ids[0] == self.tokenizer.bos_token_id
        if has_bos and limit > 1:
            return ids[:1] + ids[len(ids) - (limit - 1) :]
        return ids[len(ids) - limit :]


class _DatasetRows:
    """Rows of a `datasets.Dataset`, read when used: it may be larger than memory."""

    def __init__(self, dataset: Any):
        if isinstance(dataset.column_names, Mapping):
            splits = list(dataset.column_names)
            raise PromptError(f"got a data set with the splits {splits}; choose one: dataset[{splits[0]!r}]")
        if "prompt" not in dataset.column_names:
            raise PromptError(
                f"the data set has no column 'prompt'; its columns are {list(dataset.column_names)}. "
                "Rename one: dataset.rename_column(..., 'prompt')"
            )
        _check_columns(dataset.column_names, "the data set")
        self._dataset = dataset
        self.column_names = frozenset(dataset.column_names) - {"prompt"}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[PromptText, dict[str, Any]]:
        return _row(self._dataset[index], f"prompt {index}")


def _rows(source: Any) -> Sequence[tuple[PromptText, dict[str, Any]]] | _DatasetRows:
    if hasattr(source, "column_names") and hasattr(source, "__getitem__"):
        return _DatasetRows(source)
    if isinstance(source, str) and source.startswith(PREFIX):
        return _DatasetRows(load_prompt_dataset(source))
    if isinstance(source, (str, Path)):
        return _checked_rows(_read_file(Path(source)))
    if not isinstance(source, Sequence) or isinstance(source, bytes):
        raise PromptError(
            f"prompts must be a list, the path of a .jsonl or .txt file, or a datasets.Dataset (or its name, "
            f"'{PREFIX}...'); "
            f"got {type(source).__name__}"
        )
    if source and all(isinstance(item, Mapping) and {"role", "content"} <= item.keys() for item in source):
        raise PromptError("got one chat where a list of chats is expected; put it in a list: [messages]")
    return _checked_rows((f"prompt {index}", item) for index, item in enumerate(source))


def _checked_rows(items: Iterable[tuple[str, Any]]) -> list[tuple[PromptText, dict[str, Any]]]:
    """Rows from (where, item) pairs; all of them must have the same columns."""
    rows: list[tuple[PromptText, dict[str, Any]]] = []
    for where, item in items:
        row = _row(item, where)
        if rows and row[1].keys() != rows[0][1].keys():
            raise PromptError(
                f"{where} has the columns {sorted(row[1])}, but the first has {sorted(rows[0][1])}; "
                "every row needs the same ones"
            )
        rows.append(row)
    return rows


def _row(item: Any, where: str) -> tuple[PromptText, dict[str, Any]]:
    if not isinstance(item, Mapping):
        text, columns = item, {}
    elif "prompt" not in item:
        raise PromptError(f"{where} has no key 'prompt'; its keys are {sorted(item)}")
    else:
        text = item["prompt"]
        columns = {name: value for name, value in item.items() if name != "prompt"}
    _check_row(text, columns, where)
    return (text if isinstance(text, str) else [dict(message) for message in text]), columns


def _check_row(text: Any, columns: Mapping[str, Any], where: str) -> None:
    _check_columns(columns, where)
    if isinstance(text, str):
        return
    if not isinstance(text, (list, tuple)):
        raise PromptError(f"{where} must be a text or a list of chat messages, got {type(text).__name__}: {text!r:.80}")
    try:
        check_messages(text)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None


def _check_columns(names: Iterable[str], where: str) -> None:
    taken = [name for name in names if name in RESERVED_COLUMNS]
    if taken:
        raise PromptError(f"{where} has a column {taken[0]!r}, a name that rewards get for something else; rename it")


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, item) of every line that is not empty."""
    if path.suffix not in (".jsonl", ".txt") or not path.is_file():
        why = "no such file" if path.suffix in (".jsonl", ".txt") else "not a .jsonl or .txt file"
        raise PromptError(f"prompts {str(path)!r}: {why}. For a single prompt, put it in a list: [{str(path)!r}]")
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error}") from error
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
        except json.JSONDecodeError as error:
            raise PromptError(f"{where} is not JSON: {error}") from error


def _place(index: int) -> str:
    return "the prompt" if index < 0 else f"prompt {index}"
