"""Preference pairs as each of TRL's offline trainers has them after tokenization.

TRL would tokenize the responses' texts anew, and append EOS to those that were cut. It gets what was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textrl_env.trajectory import Trajectory

IGNORED = -100  # a label that has no loss

Pair = tuple[Trajectory, Trajectory]  # the better response to a prompt, and the worse one
Row = dict[str, Any]


def dpo_rows(pairs: Sequence[Pair]) -> list[Row]:
    """A row of ids for each pair."""
    return [
        {
            "prompt_ids": chosen.prompt_ids.tolist(),
            "chosen_ids": chosen.response_ids.tolist(),
            "rejected_ids": rejected.response_ids.tolist(),
        }
        for chosen, rejected in pairs
    ]


def orpo_rows(pairs: Sequence[Pair]) -> list[Row]:
    """A row for each pair: ids, masks and labels of the prompt together with either response."""
    return [_orpo_row(*pair) for pair in pairs]


def _orpo_row(chosen: Trajectory, rejected: Trajectory) -> Row:
    prompt = chosen.prompt_ids.tolist()
    row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        row |= {
            f"{name}_input_ids": response.ids.tolist(),
            f"{name}_attention_mask": [1] * len(response.ids),
            f"{name}_labels": np.where(response.is_action, response.ids, IGNORED).tolist(),
        }
    return row


def kto_rows(pairs: Sequence[Pair]) -> list[Row]:
    """Two rows for each pair: the better response is desirable, the worse one is not.

    KTO measures the KL on responses to other prompts: here on that of the same kind in the pair before.
    """
    rows = [
        {
            "prompt_ids": response.prompt_ids.tolist(),
            "completion_ids": response.response_ids.tolist(),
            "label": label,
        }
        for chosen, rejected in pairs
        for response, label in ((chosen, True), (rejected, False))
    ]
    return [{**row, "KL_completion_ids": rows[place - 2]["completion_ids"]} for place, row in enumerate(rows)]
