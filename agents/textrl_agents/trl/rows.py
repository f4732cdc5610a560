"""What TRL's trainers read: an environment's prompts and pairs of responses, without a token of difference.

TRL tokenizes by itself. It does not cut prompts to a length, turns control tokens that a text spells into control
tokens, sends values through Arrow, which changes some, and appends EOS to responses that were cut. So online trainers
get names of prompts, and a processing class that turns a name into the ids that the environment has for it. Text, chat
and columns reach the reward by the same name. Offline trainers get rows of the ids that were sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from textrl_agents.algorithms.response_groups import Pair
from textrl_env.text.prompts import Prompt, PromptSet
from textrl_env.trajectory import Trajectory

IGNORED = -100  # a label that has no loss
Row = dict[str, Any]


def prompt_name(index: int) -> str:
    """The entry of the column `prompt` for the prompt at `index` of its set."""
    return str(index)


def named_prompt(prompts: PromptSet, name: str) -> Prompt:
    """The prompt that `prompt_name` gave this name."""
    return prompts[int(name)]


def prompt_dataset(prompts: PromptSet, *, at_least: int = 1) -> Dataset:
    """The names of all prompts in a column `prompt`, repeated until there are `at_least` rows.

    TRL's sampler drops what does not fill a batch. It would drop all of a set that is smaller than a batch.
    """
    repeats = -(-at_least // len(prompts))
    return Dataset.from_dict({"prompt": [prompt_name(index) for index in range(len(prompts))] * repeats})


def prompt_processor(prompts: PromptSet) -> Any:
    """A copy of the set's tokenizer that, when it is called, turns names into the ids of the prompts.

    All else of it (decoding, special ids, padding) is the tokenizer's own.
    """
    processor = copy.deepcopy(prompts.tokenizer)

    class NamedPrompts(type(processor)):  # type: ignore[misc]
        """A tokenizer of names."""

        def __call__(self, text: list[str], return_tensors: str | None = None, **arguments: Any) -> Any:
            ids = {"input_ids": [named_prompt(prompts, name).ids.tolist() for name in text]}
            if return_tensors is None:
                return ids
            return self.pad(ids, padding=True, padding_side="left", return_tensors=return_tensors)

    processor.__class__ = NamedPrompts
    return processor


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

    KTO measures the KL on responses to other prompts. Each row takes that of the same kind in the pair before.
    """
    rows = [
        {"prompt_ids": response.prompt_ids.tolist(), "completion_ids": response.response_ids.tolist(), "label": label}
        for chosen, rejected in pairs
        for response, label in ((chosen, True), (rejected, False))
    ]
    return [{**row, "KL_completion_ids": rows[place - 2]["completion_ids"]} for place, row in enumerate(rows)]
