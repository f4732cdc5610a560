"""The prompts of a task with several turns: its turn environment writes them, each of a seed or of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import PromptError
from textrl_env.text.prompt_rows import PromptRows, PromptText
from textrl_env.text.prompts import Prompt, PromptSet
from textrl_env.turns.seeds import split_seed

# How many seeds of each split are served; more are never seen of the train split in any run, and those of the others
# have to come again, so that two evaluations meet the same episodes.
SEEDS = {"train": 2**20, "validation": 1024, "heldout": 1024}
_NO_IDS = np.empty(0, dtype=np.int64)
_NO_IDS.setflags(write=False)


class SeedRows(PromptRows):
    """Rows that hold the seed of an episode and nothing else, those of a split."""

    def __init__(self, split: str):
        self._split = split

    def __len__(self) -> int:
        return SEEDS[self._split]

    def __getitem__(self, place: Any) -> Any:
        if not 0 <= place < len(self):  # which ends an iteration
            raise IndexError(f"row {place} of {len(self)}")
        return "", {"seed": split_seed(self._split, int(place))}

    @property
    def column_names(self) -> frozenset[str]:
        return frozenset({"seed"})

    def selected(self, places: Sequence[int]) -> PromptRows:
        return PromptRows([self[place] for place in places])


class Openings(PromptSet):
    """Prompts that have no ids before their episode begins: its turn environment is reset with their row.

    source: SeedRows, or what a PromptSet takes.
    """

    def encode(self, text: PromptText, columns: Mapping[str, Any] | None = None) -> Prompt:
        """A row that is not from the set. Raises PromptError where the set's rows are seeds alone."""
        if isinstance(self._rows, SeedRows):
            raise PromptError(
                "the turn environment of this task writes the prompts, so none can be given: choose an episode with "
                "options={'prompt_index': i}"
            )
        return super().encode(text, columns)

    def _encode(self, text: PromptText, columns: dict[str, Any], index: int) -> Prompt:
        return Prompt(text, _NO_IDS, columns, index)
