"""An environment's prompts as TRL's trainers take them, without a token of difference.

TRL tokenizes prompts by itself: it does not cut them to a length, turns control tokens that a text spells into control
tokens, and sends values through Arrow, which changes some. So it is given names of prompts, and a processing class that
turns a name into the ids that the environment has for it. Text, chat and columns reach the reward by the same name.
"""

from __future__ import annotations

import copy
from typing import Any

from datasets import Dataset

from textrl_env.text.prompts import Prompt, PromptSet


def prompt_name(index: int) -> str:
    """What stands in the column `prompt` for the prompt at `index` of its set."""
    return str(index)


def named_prompt(prompts: PromptSet, name: str) -> Prompt:
    """The prompt that `prompt_name` gave this name."""
    return prompts[int(name)]


def prompt_dataset(prompts: PromptSet, *, at_least: int = 1) -> Dataset:
    """The names of all prompts in a column `prompt`, repeated until there are `at_least` rows.

    TRL's sampler drops what does not fill a batch; of too small a set it would drop everything.
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
