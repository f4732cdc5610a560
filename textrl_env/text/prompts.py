"""Prompts: where they come from, how they are encoded, and how they are drawn, one by one or in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from textrl_env.errors import PromptError, PromptTooLong
from textrl_env.foreign_text import names_shown, shown
from textrl_env.text.prompt_rows import PromptRows, PromptText, check_row, load_rows
from textrl_env.text.tokenization import check_text, encode_chat, encode_prompt_text
from textrl_env.user_values import check_names, check_whole

_SURELY_SHORT = 10_000  # characters that are tokenised in no time, whatever the limit is


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt, ready to be continued."""

    text: PromptText  # what the reward gets: a text, or a list of chat messages
    ids: np.ndarray  # int64 [p], 1 <= p <= max_prompt_tokens, read-only
    columns: dict[str, Any]  # the row's other values, passed on to the reward
    index: int  # its place in the set; -1 where it is not from one

    @property
    def source(self) -> int | dict[str, Any]:
        """By which `PromptSet.restored` finds it: its index, or its text and columns where it is not from the set."""
        return self.index if self.index >= 0 else {"text": self.text, "columns": self.columns}


def columns_of(prompts: Sequence[Prompt]) -> dict[str, list[Any]]:
    """The columns of prompts of one set (at least one), as a reward gets them: name -> a value for each prompt."""
    return {name: [prompt.columns[name] for prompt in prompts] for name in prompts[0].columns}


def checked_system_prompt(given: Any) -> str | None:
    """A system prompt as it was given. Raises PromptError unless it is a text, or None."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise PromptError(f"system_prompt must be a text, got {type(given).__name__}: {shown(given)}")
    check_text(given, "system_prompt")
    return given


def chat_of(prompt: PromptText, system_prompt: str | None = None) -> list[dict[str, Any]]:
    """The prompt as a chat: a text becomes a user's message, and a chat without a system message gets `system_prompt`
    where that is not empty.
    """
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not system_prompt or any(message["role"] == "system" for message in chat):
        return chat
    return [{"role": "system", "content": system_prompt}, *chat]


class PromptSet:
    """A fixed set of prompts, each encoded when it is first used.

    source: one of
        - a list of texts, or of chats (lists of `{"role", "content"}` messages),
        - a list of dicts `{"prompt": text or chat, ...}`, whose other values are passed on to the reward,
        - the path of a `.jsonl` file with one such text, chat or dict a line, or of a `.txt` file with a text a line
          (empty lines are skipped),
        - a `datasets.Dataset` with a column `prompt`, or its name, `"datasets:<hub id or folder>[:split]"`.
    tokenizer: a Hugging Face tokenizer; needs a chat template where there are chats.
    max_prompt_tokens: the longest prompt, in tokens.
    overflow: what is done with a longer one. `"truncate"` drops its oldest tokens, but for a BOS in front; `"error"`
        raises PromptTooLong.
    split: which prompts these are, a key of `textrl_env.text.prompt_splits.LABELS`.
    as_chat: a text is asked as a user's message where the tokenizer has a chat template, and is continued elsewhere.
    system_prompt: the system message of every chat that has none. None leaves them to the template, as "" does.

    Raises PromptError where the source is empty or malformed; the message names the row, and the line of a file.
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        overflow: Literal["truncate", "error"] = "truncate",
        split: str = "given",
        as_chat: bool = False,
        system_prompt: str | None = None,
    ):
        check_whole("max_prompt_tokens", max_prompt_tokens, 1)
        check_names("overflow", [overflow], ("truncate", "error"))
        self.tokenizer = tokenizer
        self.max_prompt_tokens = int(max_prompt_tokens)
        self.overflow = overflow
        self.split = split
        if not isinstance(as_chat, bool):
            raise PromptError(f"as_chat must be true or false, got {shown(as_chat)}")
        self.as_chat = as_chat and getattr(tokenizer, "chat_template", None) is not None
        self.system_prompt = checked_system_prompt(system_prompt)
        self._rows = load_rows(source)
        self._encoded: dict[int, Prompt] = {}
        if len(self._rows) == 0:
            raise PromptError("the prompt source is empty; give at least one prompt")
        if type(self._rows) is PromptRows and tokenizer.bos_token_id is None:
            for index, (text, _) in enumerate(self._rows):  # better now than in the middle of a run
                if text == "":
                    self[index]
        if self.system_prompt:
            self[0]  # refused where it is no chat

    @property
    def column_names(self) -> frozenset[str]:
        """The names of the columns that every prompt of the set has."""
        return self._rows.column_names

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

        text: a text or a list of chat messages. columns: its other values, under the names that the set's rows have,
            since one batch may hold both.

        Raises PromptError where it is neither a text nor a well-formed chat, or its columns are not the set's.
        """
        columns = dict(columns or {})
        check_row(text, columns, "the prompt")
        if columns.keys() != self.column_names:
            raise PromptError(
                f"the prompt has the columns {names_shown(columns)}, but the set's prompts have "
                f"{names_shown(self.column_names)}; give exactly these, the reward gets them"
            )
        return self._encode(text, columns, -1)

    def restored(self, source: int | Mapping[str, Any]) -> Prompt:
        """The prompt with that `source`."""
        return self.encode(**source) if isinstance(source, Mapping) else self[source]

    def _asked(self, text: PromptText, index: int) -> PromptText:
        """The prompt as the model is asked it: as a chat, and with the system prompt, where the set says so."""
        if not isinstance(text, str) or self.as_chat:
            return chat_of(text, self.system_prompt)
        if self.system_prompt:
            raise PromptError(
                f"{_place(index)} is a text, which a system prompt cannot stand in front of; give chats, or "
                "as_chat=True and a tokenizer with a chat template"
            )
        return text

    def _encode(self, text: PromptText, columns: dict[str, Any], index: int) -> Prompt:
        text = self._asked(text, index)
        try:
            if isinstance(text, str):
                ids = encode_prompt_text(self.tokenizer, self._shortened(text, index))
            else:
                chat = [{**message, "content": self._shortened(message["content"], index)} for message in text]
                ids = encode_chat(self.tokenizer, chat)
        except PromptTooLong:
            raise
        except PromptError as error:
            raise type(error)(f"{_place(index)}: {error}") from error
        array = np.asarray(self._fitted(ids, index), dtype=np.int64)
        array.setflags(write=False)
        return Prompt(text, array, columns, index)

    def _shortened(self, text: str, index: int) -> str:
        """Keep the end of a text that certainly has too many tokens, so that megabytes are not tokenized for nothing.

        No token is longer than the vocabulary's longest, so `max_prompt_tokens` of them cover at most half of what is
        kept. The other half keeps them away from the cut, which might change how the text there falls into tokens.
        """
        if len(text) <= _SURELY_SHORT:
            return text
        most = 2 * self.max_prompt_tokens * max(len(token) for token in self.tokenizer.get_vocab())
        if len(text) <= most:
            return text
        if self.overflow == "error":
            raise self._too_long(index, f"{len(text):,} characters", " can hold")
        return text[-most:]

    def _fitted(self, ids: list[int], index: int) -> list[int]:
        limit = self.max_prompt_tokens
        if len(ids) <= limit:
            return ids
        if self.overflow == "error":
            raise self._too_long(index, f"{len(ids)} tokens")
        return newest_tokens(ids, limit, self.tokenizer.bos_token_id)

    def _too_long(self, index: int, size: str, can_hold: str = "") -> PromptTooLong:
        return PromptTooLong(
            f"{_place(index)} has {size}, more than max_prompt_tokens={self.max_prompt_tokens}{can_hold}; raise "
            "max_prompt_tokens, or pass overflow='truncate' to keep its newest tokens"
        )


def newest_tokens(ids: list[int], limit: int, bos: int | None) -> list[int]:
    """The last `limit` ids, but for a BOS in front, which stays."""
    if len(ids) <= limit:
        return ids
    if bos is not None and ids[0] == bos and limit > 1:
        return ids[:1] + ids[len(ids) - (limit - 1) :]
    return ids[len(ids) - limit :]


def _place(index: int) -> str:
    return "the prompt" if index < 0 else f"prompt {index}"


class PromptGroups:
    """Hands each prompt to `size` rows, one after the other as they become free.

    Rows end at different times, so groups are filled by whichever rows are free next: no row waits for another, and a
    group ends at most one response after it began.
    """

    def __init__(self, prompts: PromptSet, size: int):
        self.prompts, self.size = prompts, size
        self.generator = np.random.default_rng()
        self.group = -1  # the group being filled; they are numbered from 0
        self._prompt: Prompt | None = None
        self._left = 0  # rows that the group still needs

    def start(self) -> None:
        """Begin a new group, whatever the last one lacked: its rows are reset now."""
        self._left = 0

    def next(self) -> tuple[Prompt, int]:
        """The next free row's prompt and the number of its group."""
        if self._left == 0 or self._prompt is None:
            self._prompt, self._left = self.prompts.sample(self.generator), self.size
            self.group += 1
        self._left -= 1
        return self._prompt, self.group

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain data."""
        index = None if self._prompt is None else self._prompt.index
        state = self.generator.bit_generator.state
        return {"generator": state, "group": self.group, "prompt": index, "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, over the same prompts."""
        self.generator = restored_generator(state["generator"])
        self.group, self._left = int(state["group"]), int(state["left"])
        self._prompt = None if state["prompt"] is None else self.prompts[state["prompt"]]


def restored_generator(state: dict[str, Any]) -> np.random.Generator:
    """A generator of the saved state's own kind: `reset(seed=...)` and a constructor may make different ones."""
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator
