"""The ids of a response that a person wrote: what the environment's policy would have to sample to give it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from textrl_env.text.prompt_rows import PromptText
from textrl_env.text.tokenization import (
    Ids,
    decode_response,
    encode_chat,
    encode_continuation,
    encode_prompt_text,
    encode_text,
)


def encode_response(
    tokenizer: Any, prompt: PromptText, prompt_ids: Ids, response: str, eos_ids: Collection[int]
) -> Ids:
    """The ids of `response` behind `prompt_ids`, with the id that ends it. Control tokens that it spells are text.

    prompt: a text or a chat; prompt_ids: its ids in the environment.
    eos_ids: the ids that end a response in the environment. A chat ends with the template's own mark where that is one
        of them. All else ends with the tokenizer's EOS, or the first of them; with none where there are none.

    Raises PromptError where the chat template refuses the answer.
    """
    if isinstance(prompt, str):
        whole = encode_prompt_text(tokenizer, prompt + response)
    else:
        whole = encode_chat(tokenizer, prompt, answer=response)
    rest = whole[len(prompt_ids) :] if whole[: len(prompt_ids)] == prompt_ids else None
    if not isinstance(prompt, str) and rest is not None:
        for place, token in enumerate(rest):
            if token in eos_ids:
                return rest[: place + 1]
        if (said := _without_tail(tokenizer, rest, response)) is not None:
            return said + _end(tokenizer, eos_ids)
        rest = None
    return _written(tokenizer, rest, response, after_text=isinstance(prompt, str)) + _end(tokenizer, eos_ids)


def _end(tokenizer: Any, eos_ids: Collection[int]) -> Ids:
    if tokenizer.eos_token_id in eos_ids:
        return [tokenizer.eos_token_id]
    return sorted(eos_ids)[:1]


def _without_tail(tokenizer: Any, ids: Ids, response: str) -> Ids | None:
    """The ids without what the template puts behind an answer; None where they do not say the response.

    White space around the response does not count: templates trim it.
    """
    wanted, found = response.strip(), None
    for end in range(len(ids), -1, -1):
        text = decode_response(tokenizer, ids[:end], after_text=False).strip()
        if text == wanted:
            found = ids[:end]
        elif len(text) < len(wanted):
            break
    return found


def _written(tokenizer: Any, rest: Ids | None, response: str, *, after_text: bool) -> Ids:
    """The ids that decode to the response: as it stands behind its prompt, by itself, or behind another text.

    A tokenizer may join the prompt's last letters with the response's first ones, which no policy can sample. Some
    write a space in front of a text that stands by itself.
    """
    alone = encode_text(tokenizer, response)
    ways = [ids for ids in (rest, alone, encode_continuation(tokenizer, response)) if ids is not None]
    for ids in ways:
        if decode_response(tokenizer, ids, after_text=after_text) == response:
            return ids
    return ways[0]  # a tokenizer that rewrites texts, such as to lower case
