"""What a format is: prompts that are drawn, right and wrong answers to them, and a check of an answer's form."""

from __future__ import annotations

import copy
import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from textrl_env.errors import UnknownName

Row = Mapping[str, Any]
"""A prompt (`row["prompt"]`, a text or chat messages) and the columns that a reward needs to judge its answer."""

SPLITS = ("train", "heldout")
MAX_DRAWS = 20_000


@dataclass(frozen=True)
class Format:
    """One kind of prompt and how the training text answers it.

    draw: a row from the space of all rows; what it draws depends on the generator alone.
    right, wrong: an answer to a row as the training text writes it (a text, with the space in front that it has in a
        document); `wrong` gives a plausible mistake.
    well_formed: whether an answer has the format's form, right or wrong.
    right_share: the share of right answers in the training text. Below 1 on purpose: a model that learned it scores in
        the middle, and reinforcement learning can be seen to raise or to ruin it.
    """

    name: str
    draw: Callable[[Random], dict[str, Any]]
    right: Callable[[Random, Row], str]
    wrong: Callable[[Random, Row], str]
    well_formed: Callable[[Row, str], bool]
    right_share: float = 0.6

    def answer(self, rng: Random, row: Row) -> str:
        """What the training text answers to `row`."""
        return (self.right if rng.random() < self.right_share else self.wrong)(rng, row)

    def rows(self, split: Literal["train", "heldout"]) -> list[dict[str, Any]]:
        """Prompts with their columns: at most 2,048 to train on, at most 64 held out; no prompt is in both.

        Always the same in the same order. Raises `UnknownName` for another split.
        """
        if split not in SPLITS:
            raise UnknownName(f"split of the {self.name} prompts", split, SPLITS)
        return copy.deepcopy(list(_drawn_rows(self)[split]))


@functools.cache
def _drawn_rows(form: Format) -> dict[str, list[dict[str, Any]]]:
    """Both splits. A prompt's split follows from its text, so that no order of drawing can put it into both."""
    rng = Random(f"prompts of {form.name}")
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    wanted = {"train": 2048, "heldout": 64}
    seen: set[str] = set()
    for _ in range(MAX_DRAWS):
        row = form.draw(rng)
        key = repr(row["prompt"])
        split = "heldout" if zlib.crc32(key.encode()) % 4 == 3 else "train"
        if key not in seen and len(rows[split]) < wanted[split]:
            seen.add(key)
            rows[split].append(row)
        if all(len(rows[name]) == wanted[name] for name in SPLITS):
            break
    return rows
