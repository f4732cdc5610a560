"""A preference pair as each of TRL's offline trainers has it after tokenization.

TRL would tokenize the responses' texts anew, and append EOS to those that were cut. It gets what was sampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

IGNORED = -100  # a label that has no loss

Row = dict[str, Any]


def dpo_rows(prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> list[Row]:
    """One row of ids."""
    return [{"prompt_ids": prompt.tolist(), "chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()}]


def orpo_rows(prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> list[Row]:
    """One row of ids, masks and labels, each of the prompt and the response together."""
    row = {"prompt_input_ids": prompt.tolist(), "prompt_attention_mask": [1] * len(prompt)}
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        ids = [*prompt.tolist(), *response.tolist()]
        row |= {
            f"{name}_input_ids": ids,
            f"{name}_attention_mask": [1] * len(ids),
            f"{name}_labels": [IGNORED] * len(prompt) + response.tolist(),
        }
    return [row]
