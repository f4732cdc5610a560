"""The control tokens of a tokenizer, and a copy of it that is blind to their spellings."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary


def control_tokens(tokenizer: Any) -> dict[str, Any]:
    """Text -> AddedToken of every token that the tokenizer declares special."""
    declared = set(tokenizer.all_special_tokens)
    added = tokenizer.added_tokens_decoder.values()
    return {token.content: token for token in added if token.special or token.content in declared}


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first; nothing if there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def strings_of(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_of(item)


def map_strings(function: Any, value: Any) -> Any:
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_strings(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(function, item) for item in value]
    return value


_blind_copies: WeakKeyDictionary[Any, tuple[int, tuple[Any, dict[str, str], dict[int, int]]]] = WeakKeyDictionary()


def blind_copy(tokenizer: Any, control: dict[str, Any]) -> tuple[Any, dict[str, str], dict[int, int]]:
    """A copy of the tokenizer that knows each control token under another spelling only.

    Returns the copy, {control token's text: its stand-in}, and {stand-in's id: control token's id}. A stand-in strips
    the spaces around it exactly as its original does.
    """
    size = len(tokenizer)
    cached = _blind_copies.get(tokenizer)
    if cached is None or cached[0] != size:
        blind = copy.deepcopy(tokenizer)
        nonce = secrets.token_hex(8)
        stand_ins = {text: f"standin{nonce}n{number}n" for number, text in enumerate(control)}
        same = ("lstrip", "rstrip", "single_word")
        blind.add_tokens(
            [
                type(token)(
                    stand_ins[text],
                    special=False,
                    normalized=False,
                    **{flag: getattr(token, flag) for flag in same},
                )
                for text, token in control.items()
            ]
        )
        real_ids = {
            blind.convert_tokens_to_ids(stand_in): tokenizer.convert_tokens_to_ids(text)
            for text, stand_in in stand_ins.items()
        }
        cached = _blind_copies[tokenizer] = (size, (blind, stand_ins, real_ids))
    return cached[1]
