"""HH-RLHF: two transcripts of turns, `\\n\\nHuman: ...` and `\\n\\nAssistant: ...`, that differ in their last one.

From Bai et al. 2022, "Training a Helpful and Harmless Assistant" (https://arxiv.org/abs/2204.05862).
"""

from __future__ import annotations

import re
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.preferences.formats.format import (
    CannotHold,
    Format,
    Row,
    decided,
    other_columns,
    taken,
    with_columns,
    writer,
)
from textrl_env.preferences.records import Candidate, Comparison, Record

SPEAKERS = {"user": "Human", "assistant": "Assistant"}
ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
_TURN = re.compile(r"\n\n(Human|Assistant):")


def read(row: Row) -> list[Record]:
    """A comparison of the last turns; all before them is the prompt, as a chat."""
    turns = [turns_of(taken(row, name, str, "a transcript"), name) for name in ("chosen", "rejected")]
    chosen, rejected = turns
    if chosen[:-1] != rejected[:-1]:
        raise ConfigError("'chosen' and 'rejected' must be the same up to the last turn, and they are not")
    candidates = (Candidate(chosen[-1]["content"]), Candidate(rejected[-1]["content"]))
    columns = other_columns(row, "chosen", "rejected")
    return [Comparison(prompt=chosen[:-1], candidates=candidates, preferred=0, columns=columns)]


def turns_of(transcript: str, name: str) -> list[dict[str, Any]]:
    """A transcript as messages, the last of which is the assistant's. One space after a speaker is left out."""
    before, *_ = _TURN.split(transcript, maxsplit=1)
    turns = _split(transcript)
    if before or len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise ConfigError(
            f"{name!r} must begin with '\\n\\nHuman:' and end with a turn of '\\n\\nAssistant:', "
            f"got {shown(transcript)}"
        )
    return turns


def _split(transcript: str) -> list[dict[str, Any]]:
    _, *rest = _TURN.split(transcript)
    turns = zip(rest[::2], rest[1::2], strict=True)
    return [{"role": ROLES[speaker], "content": text.removeprefix(" ")} for speaker, text in turns]


def row_of(record: Comparison) -> Row:
    """Two transcripts. A prompt that is a text is one turn of the human."""
    record = decided(record)
    prompt = [{"role": "user", "content": record.prompt}] if isinstance(record.prompt, str) else record.prompt
    if any(message["role"] not in SPEAKERS for message in prompt):
        raise CannotHold("a chat with other roles than user and assistant")
    row = {}
    for name, answer in (("chosen", record.chosen), ("rejected", record.rejected)):
        messages = [*prompt, {"role": "assistant", "content": answer.text}]
        row[name] = "".join(f"\n\n{SPEAKERS[turn['role']]}: {turn['content']}" for turn in messages)
        if [turn["content"] for turn in _split(row[name])] != [turn["content"] for turn in messages]:
            raise CannotHold("a text that spells '\\n\\nHuman:' or '\\n\\nAssistant:'")
    return with_columns(row, record.columns, "prompt")  # which would make it a row of TRL's


HH_RLHF = Format(
    name="hh-rlhf",
    holds="comparisons with a better response, as chats of user and assistant",
    matches=lambda rows: "prompt" not in rows[0] and _is_transcript(rows[0].get("chosen")),
    read=read,
    write=writer(row_of, Comparison),
)


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and _TURN.match(value) is not None
