"""Prompt and response as the ids that a reward's model reads: texts joined, chats through the model's template."""

from __future__ import annotations

from typing import Any

import numpy as np

from textrl_env.errors import RewardError
from textrl_env.rewards.protocol import Text
from textrl_env.text.chat_text import completion_text, prompt_text
from textrl_env.text.tokenization import encode_chat

# Below this many texts, waking the tokenizer's thread pool costs more than it saves.
FEW_TEXTS = 16


class ConversationEncoder:
    """Encodes prompts with their responses. Control tokens that a text spells are read as plain text.

    Text prompts are read as `prompt + completion`, with the special tokens that the tokenizer adds; chats through its
    chat template (the messages' texts joined by newlines where it has none). Texts that are too long lose their
    beginning, but for a first special token.

    tokenizer: a Hugging Face tokenizer, whose padding and truncation are switched off. max_length: most tokens of a
    row. name: the reward's, for errors.
    """

    def __init__(self, tokenizer: Any, max_length: int, name: str):
        self.tokenizer, self.max_length, self.name = tokenizer, max_length, name
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_padding()
            self._backend.no_truncation()

    def __call__(self, prompts: list[Text], completions: list[Any]) -> list[list[int]]:
        """The ids of each prompt with its completion, 1 to `max_length` of them. Raises what `cut` raises."""
        return self.cut(self.whole(prompts, completions))

    def whole(self, prompts: list[Text], completions: list[Any]) -> list[list[int]]:
        """All ids of each prompt with its completion, however many."""
        texts: list[str] = []
        chats: dict[int, list[int]] = {}
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if isinstance(prompt, str) or self.tokenizer.chat_template is None:
                texts.append(prompt_text(prompt) + completion_text(completion))
            else:
                chats[index] = encode_chat(self.tokenizer, prompt, answer=completion_text(completion))
        encoded = iter(self._encode_texts(texts))
        return [chats[i] if i in chats else next(encoded) for i in range(len(completions))]

    def cut(self, rows: list[list[int]]) -> list[list[int]]:
        """Rows of 1 to `max_length` ids.

        Raises RewardError for an empty text where the tokenizer has neither a BOS nor an EOS token to stand in for it.
        """
        return [self._fitted(row, index) for index, row in enumerate(rows)]

    def prompt_lengths(self, prompts: list[Text]) -> list[int]:
        """How many ids each prompt has alone: a chat's up to where the response begins."""
        texts: list[str] = []
        chats: dict[int, int] = {}
        for index, prompt in enumerate(prompts):
            if isinstance(prompt, str) or self.tokenizer.chat_template is None:
                texts.append(prompt_text(prompt))
            else:
                chats[index] = len(encode_chat(self.tokenizer, prompt))
        encoded = iter(self._encode_texts(texts))
        return [chats[i] if i in chats else len(next(encoded)) for i in range(len(prompts))]

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is not None:
            # Spelled special tokens are encoded as text. Set each time: `encode_chat` may have set it to the opposite.
            self._backend.encode_special_tokens = True
            if len(texts) < FEW_TEXTS:
                return [self._backend.encode(text).ids for text in texts]
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        rows = self.tokenizer(texts, split_special_tokens=True, return_attention_mask=False, verbose=False)
        return list(rows["input_ids"])

    def _fitted(self, row: list[int], index: int) -> list[int]:
        if not row:
            stand_in = self.tokenizer.bos_token_id
            if stand_in is None:
                stand_in = self.tokenizer.eos_token_id
            if stand_in is None:
                raise RewardError(
                    f"reward {self.name!r} got an empty text as sample {index}, and its tokenizer "
                    "has neither a BOS nor an EOS token to read in its place"
                )
            return [stand_in]
        excess = len(row) - self.max_length
        if excess <= 0:
            return row
        kept = 1 if self.max_length > 1 and row[0] in self.tokenizer.all_special_ids else 0  # BOS or [CLS]
        return row[:kept] + row[kept + excess :]


def batches_by_length(rows: list[list[int]], size: int) -> list[list[int]]:
    """The indices of rows in batches of at most `size`, shortest rows first, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def padded(rows: list[list[int]], pad_id: int) -> np.ndarray:
    """Ids and attention mask of rows, padded on the right, in one array: int64 [2, b, t]."""
    inputs = np.zeros((2, len(rows), max(map(len, rows))), dtype=np.int64)
    inputs[0] = pad_id
    for index, row in enumerate(rows):
        inputs[0, index, : len(row)] = row
        inputs[1, index, : len(row)] = 1
    return inputs
