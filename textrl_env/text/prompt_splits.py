"""The three parts of a set of prompts: to train on, to choose settings by, and to report.

A split is made by item, not by text: two prompts that ask the same thing are one item, and never end up on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

SPLITS = ("train", "validation", "heldout")
LABELS = MappingProxyType(
    {
        "train": "training prompts",
        "validation": "validation prompts",
        "heldout": "held-out prompts",
        "given": "given prompts",
    }
)
"""Which prompts a set holds -> their name in tables and files. "given": it is not known what was trained on."""
FEWEST = 16
"""With fewer different items none is held back: both parts would be too small."""

Item = Callable[[Mapping[str, Any]], Any]
"""What a row (`{"prompt": ..., **columns}`) is about: rows that ask the same have equal values."""


def prompt_item(row: Mapping[str, Any]) -> str:
    """Name a prompt by its text, or its chat's texts; case and white space do not count."""
    prompt = row["prompt"]
    texts = [prompt] if isinstance(prompt, str) else [part for m in prompt for part in (m["role"], m["content"])]
    return json.dumps([" ".join(text.casefold().split()) for text in texts])


def split_places(items: Sequence[Any], shares: Mapping[str, int]) -> dict[str, list[int]]:
    """Give every row to a split: split -> the places of its rows, in their order. "train" is what is left.

    items: what each row is about. shares: split -> n, for one nth of the different items, rounded down. Of fewer than
    `FEWEST` different items no split gets any.

    A hash of the item decides. Neither the order of the rows nor how often a row comes matters.
    """
    names = [item if isinstance(item, str) else repr(item) for item in items]
    left = sorted(set(names), key=_hash)
    count = len(left) if len(left) >= FEWEST else 0
    split_of: dict[str, str] = {}
    for split, share in shares.items():
        taken, left = left[: count // share], left[count // share :]
        split_of |= dict.fromkeys(taken, split)
    places: dict[str, list[int]] = {split: [] for split in ("train", *shares)}
    for place, name in enumerate(names):
        places[split_of.get(name, "train")].append(place)
    return places


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
