"""The data of supervised fine-tuning: prompts with the answers to imitate, as token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.tasks.registry import built_in_formats
from textrl_env.text.chat_text import completion_text
from textrl_env.text.prompt_rows import check_row
from textrl_env.text.tokenization import encode_chat, encode_continuation, encode_prompt_text, end_of_turn
from textrl_env.user_values import check_whole

IGNORED = -100  # a label that no loss is computed of
VALIDATION_SHARE = 8  # one in so many rows, where no validation data are given


class Example(NamedTuple):
    """ids: prompt, answer and EOS. answer: the place where the answer begins, >= 1."""

    ids: list[int]
    answer: int


class Batch(NamedTuple):
    """Rows of ids, right-padded, and what is learned of them."""

    input_ids: torch.Tensor  # int64 [B, T]
    labels: torch.Tensor  # int64 [B, T], -100 over prompts and padding


class Examples(NamedTuple):
    """What is trained on, and what judges it. name: of the data, for people."""

    name: str
    train: list[Example]
    validation: list[Example]

    @property
    def fingerprint(self) -> str:
        """A hash of every id."""
        return hashlib.sha256(json.dumps([self.train, self.validation]).encode()).hexdigest()


def load_examples(
    data: str | Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    validation_data: Sequence[Mapping[str, Any]] | None = None,
    train_rows: int = 256,
    validation_rows: int = 16,
    max_length: int | None = None,
) -> Examples:
    """Encode training and validation rows.

    data: a built-in task with right answers of its own, such as "translate", whose training and validation prompts
        share no item; or rows `{"prompt": text or messages, "completion": text}`. Without `validation_data` every
        eighth of own rows, one at least, is kept for validation.
    train_rows, validation_rows: how many at most. max_length: of the model; longer rows are refused.

    Raises ConfigError where nothing is left to train on or to judge by, or a row is none.
    """
    check_whole("train_rows", train_rows, 1)
    check_whole("validation_rows", validation_rows, 1)
    if isinstance(data, str):
        if validation_data is not None:
            raise ConfigError("validation_data belong to rows of your own: a task has its own validation prompts")
        train, validation, name = *_task_rows(data), data
    else:
        train, validation = _own_rows(data, validation_data)
        name = "own rows"
    encoded = [
        [_encoded(where, row, tokenizer, max_length) for where, row in rows[:most]]
        for rows, most in ((train, train_rows), (validation, validation_rows))
    ]
    return Examples(name, *encoded)


def collate(examples: Sequence[Example], pad: int, device: torch.device) -> Batch:
    """Put rows side by side; causal attention needs no mask where padding is on the right."""
    width = max(len(example.ids) for example in examples)
    input_ids = np.full((len(examples), width), pad, dtype=np.int64)
    labels = np.full((len(examples), width), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        length = len(example.ids)
        input_ids[row, :length] = example.ids
        labels[row, example.answer : length] = example.ids[example.answer :]
    return Batch(torch.from_numpy(input_ids).to(device), torch.from_numpy(labels).to(device))


def places_in_order(order_seed: int, start: int, count: int, rows: int) -> list[int]:
    """Return the rows that come next: each epoch is a permutation of its own.

    start: how many rows were drawn before. The answer follows from the arguments alone, so a run's place in its data is
    one number.
    """
    places: list[int] = []
    while len(places) < count:
        epoch, offset = divmod(start + len(places), rows)
        permutation = np.random.default_rng([order_seed, epoch]).permutation(rows)
        places += permutation[offset : offset + count - len(places)].tolist()
    return places


def _task_rows(name: str) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    formats = built_in_formats()
    if name not in formats:
        raise UnknownName("task with answers of its own to fine-tune on", name, formats)
    form = formats[name]

    def answered(split: str) -> list[tuple[str, Any]]:
        rng = Random(f"answers of {name}, {split}")
        rows = [{"prompt": row["prompt"], "completion": form.right(rng, row)} for row in form.rows(split)]
        return _numbered(rows, f"the {split} row")

    return answered("train"), answered("validation")


def _numbered(rows: Sequence[Any], what: str = "row") -> list[tuple[str, Any]]:
    """(what an error calls it, row) of each: by its place among all that were given."""
    return [(f"{what} {place}", row) for place, row in enumerate(rows)]


def _own_rows(data: Any, validation_data: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    for name, rows in (("data", data), ("validation_data", validation_data)):
        if rows is None and name == "validation_data":
            continue
        if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
            raise ConfigError(
                f"{name} must be a task's name or a list of rows {{'prompt': ..., 'completion': ...}}, got "
                f"{shown(rows)}"
            )
        if not rows:
            raise ConfigError(f"{name} holds no row: give at least one {{'prompt': ..., 'completion': ...}}")
    if validation_data is not None:
        return _numbered(data), _numbered(validation_data, "validation row")
    if len(data) < 2:
        raise ConfigError("one row cannot both be trained on and judge: give more rows, or validation_data")
    kept = [place % VALIDATION_SHARE == VALIDATION_SHARE - 1 for place in range(len(data))]
    kept[-1] = kept[-1] or not any(kept)
    rows = _numbered(data)
    return (
        [row for row, held in zip(rows, kept, strict=True) if not held],
        [row for row, held in zip(rows, kept, strict=True) if held],
    )


def _encoded(where: str, row: Any, tokenizer: Any, max_length: int | None) -> Example:
    if not isinstance(row, Mapping) or not {"prompt", "completion"} <= row.keys():
        raise ConfigError(f"{where} must be {{'prompt': ..., 'completion': ...}}, got {shown(row)}")
    check_row(row["prompt"], {}, f"the prompt of {where}")
    check_row(row["completion"], {}, f"the completion of {where}")
    prompt, answer = row["prompt"], completion_text(row["completion"])
    if isinstance(prompt, str):
        ids, end = encode_prompt_text(tokenizer, prompt), tokenizer.eos_token_id
    else:
        ids, end = encode_chat(tokenizer, prompt), end_of_turn(tokenizer)
    written = encode_continuation(tokenizer, answer)
    if not written:
        raise ConfigError(f"{where} has no answer to learn: its completion is {shown(row['completion'])}")
    whole = [*ids, *written, *([] if end is None else [end])]
    if max_length is not None and len(whole) > max_length:
        raise ConfigError(f"{where} has {len(whole)} tokens, and the model reads {max_length}: shorten it")
    return Example(whole, len(ids))
