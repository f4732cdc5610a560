"""Demonstrations as rows of ids and labels: the ids of the environment, and a loss on the responses alone.

TRL would tokenize by itself: control tokens that a text spells would become control tokens, and a template without
generation marks leaves it no way to tell the answers from the rest. Its trainer takes rows that have their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from textrl_agents.trl.rows import IGNORED
from textrl_agents.trl.sft.examples import Example, Turn
from textrl_env.errors import ConfigError, PromptError, UnknownName
from textrl_env.text.responses import encode_response
from textrl_env.text.tokenization import Ids, encode_chat, encode_prompt_text

OVERFLOWS = ("truncate", "error")


class TokenRow(NamedTuple):
    """What is trained on at once. labels: the id where it is learned, else -100; as many as there are ids."""

    input_ids: Ids
    labels: list[int]


class EncodedExamples(NamedTuple):
    """The rows of all examples, and how many rows did not fit: cut at their end, or without room for a response."""

    rows: list[TokenRow]
    truncated: int
    dropped: int

    @property
    def tokens(self) -> int:
        """In all rows."""
        return sum(len(row.input_ids) for row in self.rows)


def encode_examples(
    examples: Sequence[Example], tokenizer: Any, eos_ids: Sequence[int], *, max_length: int, overflow: str = "truncate"
) -> EncodedExamples:
    """Encode demonstrations as the environment encodes prompts and responses.

    eos_ids: the ids that end a response. max_length: the longest row, in tokens.
    overflow: what is done with a longer one. "truncate" drops its newest tokens, with EOS; one that has no response
        left is dropped. "error" raises ConfigError that says how many there are.

    Raises PromptError that names the example where one cannot be encoded.
    """
    if overflow not in OVERFLOWS:
        raise UnknownName("overflow", overflow, OVERFLOWS)
    encoded = [(example.where, row) for example in examples for row in _rows(example, tokenizer, set(eos_ids))]
    too_long = [(where, len(row.input_ids)) for where, row in encoded if len(row.input_ids) > max_length]
    if too_long and overflow == "error":
        where, length = max(too_long, key=lambda entry: entry[1])
        raise ConfigError(
            f"{len(too_long)} of {len(encoded)} rows have more than max_length={max_length} tokens, the longest "
            f"{length} ({where}). Raise max_length, or pass overflow='truncate' to drop their newest tokens"
        )
    fitted = [TokenRow(row.input_ids[:max_length], row.labels[:max_length]) for _, row in encoded]
    kept = [learned(row) for row in fitted]
    return EncodedExamples(
        rows=[row for row, keeps in zip(fitted, kept, strict=True) if keeps],
        truncated=sum(keeps and len(row.input_ids) > max_length for (_, row), keeps in zip(encoded, kept, strict=True)),
        dropped=kept.count(False),
    )


def learned(row: TokenRow) -> bool:
    """Whether anything of the row is."""
    return any(label != IGNORED for label in row.labels)


def _rows(example: Example, tokenizer: Any, eos_ids: set[int]) -> list[TokenRow]:
    """One row, or more where the template does not keep a conversation's beginning as it was."""
    rows: list[TokenRow] = []
    try:
        for turn in example.turns:
            prompt, response = _encoded(turn, tokenizer, eos_ids)
            before = rows[-1] if rows else TokenRow([], [])
            if rows and prompt[: len(before.input_ids)] == before.input_ids:
                rows.pop()
            else:
                before = TokenRow([], [])
            between = len(prompt) - len(before.input_ids)
            rows.append(TokenRow(prompt + response, [*before.labels, *[IGNORED] * between, *response]))
    except PromptError as error:
        raise type(error)(f"{example.where}: {error}") from error
    return rows


def _encoded(turn: Turn, tokenizer: Any, eos_ids: set[int]) -> tuple[Ids, Ids]:
    if isinstance(turn.prompt, str):
        prompt = encode_prompt_text(tokenizer, turn.prompt)
    else:
        prompt = encode_chat(tokenizer, turn.prompt)
    return prompt, encode_response(tokenizer, turn.prompt, prompt, turn.response, eos_ids)
