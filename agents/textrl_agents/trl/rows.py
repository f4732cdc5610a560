"""Preference pairs as each of TRL's offline trainers has them after tokenization.

TRL would tokenize the responses' texts anew, and append EOS to those that were cut. It gets what was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

IGNORED = -100  # a label that has no loss

# Ids of a prompt, of the better response to it, and of the worse one.
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
Row = dict[str, Any]


def dpo_rows(pairs: Sequence[Triple]) -> list[Row]:
    """A row of ids for each pair."""
    return [
        {"prompt_ids": prompt.tolist(), "chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()}
        for prompt, chosen, rejected in pairs
    ]


def orpo_rows(pairs: Sequence[Triple]) -> list[Row]:
    """A row for each pair: ids, masks and labels of the prompt together with either response."""
    return [_orpo_row(*pair) for pair in pairs]


def _orpo_row(prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> Row:
    row = {"prompt_input_ids": prompt.tolist(), "prompt_attention_mask": [1] * len(prompt)}
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        ids = [*prompt.tolist(), *response.tolist()]
        row |= {
            f"{name}_input_ids": ids,
            f"{name}_attention_mask": [1] * len(ids),
            f"{name}_labels": [IGNORED] * len(prompt) + response.tolist(),
        }
    return row


def kto_rows(pairs: Sequence[Triple]) -> list[Row]:
    """Two rows for each pair: the better response is desirable, the worse one is not.

    KTO measures the KL on responses to other prompts: here on that of the same kind in the pair before.
    """
    rows = [
        {"prompt_ids": prompt.tolist(), "completion_ids": response.tolist(), "label": label}
        for prompt, chosen, rejected in pairs
        for response, label in ((chosen, True), (rejected, False))
    ]
    return [{**row, "KL_completion_ids": rows[place - 2]["completion_ids"]} for place, row in enumerate(rows)]
