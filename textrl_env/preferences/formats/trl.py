"""TRL's preference formats (https://huggingface.co/docs/trl/dataset_formats), as text and as chat.

Explicit prompt: `prompt`, `chosen`, `rejected`. Implicit: the last two alone, each with the prompt in front. Both may
have the `margin` that TRL's reward trainer reads, and other columns, which are the prompt's. A file with scores of
both chats beside them, such as the binarized UltraFeedback, is read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.preferences.formats.format import Format, Row, decided, other_columns, taken, with_columns, writer
from textrl_env.preferences.records import Candidate, Comparison, Record
from textrl_env.rewards.protocol import Text

OWN_COLUMNS = ("prompt", "chosen", "rejected", "margin")


def matches(rows: Sequence[Row]) -> bool:
    """Whether rows have a better and a worse response."""
    return {"chosen", "rejected"} <= rows[0].keys()


def read(row: Row) -> list[Record]:
    """A comparison, with the better response first."""
    chosen, rejected = (taken(row, name, (str, list), "a text or messages") for name in ("chosen", "rejected"))
    if type(chosen) is not type(rejected):
        raise ConfigError("'chosen' and 'rejected' must both be texts, or both lists of messages")
    columns = other_columns(row, *OWN_COLUMNS)
    prompt = row.get("prompt")
    if prompt is not None and not isinstance(prompt, (str, list)):
        raise ConfigError(f"'prompt' must be a text or messages, got {shown(prompt)}")
    if isinstance(chosen, str):
        if prompt is None:
            prompt = _shared_text(chosen, rejected)
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif isinstance(prompt, list):
        chosen, rejected = answer([], chosen, "chosen"), answer([], rejected, "rejected")
    else:  # a text beside whole chats is their first message once more
        if prompt is not None and not _begins_with(chosen, prompt):
            raise ConfigError(
                "'prompt' is a text and 'chosen' a chat that does not begin with it; give both as messages"
            )
        prompt = chosen[:-1]
        chosen, rejected = answer(prompt, chosen, "chosen"), answer(prompt, rejected, "rejected")
    candidates = (Candidate(chosen), Candidate(rejected))
    return [Comparison(prompt=prompt, candidates=candidates, preferred=0, margin=row.get("margin"), columns=columns)]


def explicit_row(record: Comparison) -> Row:
    """`prompt`, `chosen`, `rejected` and what else there is."""
    record = decided(record)
    chosen, rejected = record.chosen.text, record.rejected.text
    row = {"prompt": record.prompt, "chosen": completion(record.prompt, chosen)}
    return _with_rest({**row, "rejected": completion(record.prompt, rejected)}, record)


def implicit_row(record: Comparison) -> Row:
    """`chosen` and `rejected`, each with the prompt in front."""
    record = decided(record)
    parts = {"chosen": record.chosen.text, "rejected": record.rejected.text}
    if isinstance(record.prompt, str):
        return _with_rest({name: record.prompt + text for name, text in parts.items()}, record)
    return _with_rest(
        {name: [*record.prompt, *completion(record.prompt, text)] for name, text in parts.items()}, record
    )


def completion(prompt: Text, text: str) -> Any:
    """A response as TRL has it: a text after a text, a message of the assistant after messages."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _with_rest(row: dict[str, Any], record: Comparison) -> Row:
    row = row if record.margin is None else {**row, "margin": record.margin}
    return with_columns(row, record.columns, *OWN_COLUMNS)


def _begins_with(messages: list[Any], text: str) -> bool:
    return bool(messages) and isinstance(messages[0], dict) and messages[0].get("content") == text


def _shared_text(one: str, other: str) -> str:
    """What both texts begin with, up to the last white space: a prompt ends with a whole word."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = one[: next((place for place, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))]
    return shared[: max(shared.rfind(space) for space in " \n\t") + 1]


def answer(prompt: list[Any], messages: list[Any], name: str) -> str:
    """The text of the one message of the assistant that comes after the prompt."""
    last = messages[-1] if messages else None
    if messages[:-1] != prompt or not isinstance(last, dict) or last.get("role") != "assistant":
        raise ConfigError(
            f"{name!r} must be the prompt's messages and then one of the assistant; got {len(messages)} messages, "
            f"the last of which is {shown(last)}"
        )
    return str(taken(last, "content", str, "a text"))


EXPLICIT = Format(
    name="trl",
    holds="comparisons with a better response, margins; other columns are the prompt's",
    matches=matches,
    read=read,
    write=writer(explicit_row, Comparison),
)
IMPLICIT = Format(
    name="trl-implicit",
    holds="as trl, but not where a text's prompt ends",
    matches=lambda rows: matches(rows) and "prompt" not in rows[0],
    read=read,
    write=writer(implicit_row, Comparison),
)
