"""Summarize a passage of four sentences in one that keeps who, where, when and what.

The reward compares words with a reference summary, so a false fact costs no more than a word that is put differently;
the gold score checks the facts themselves.

Held out are combinations of the four facts to keep: none is trained on in another order, or with other sentences
beside it. Each single fact is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from textrl_env.language.formats.summarize import SUMMARIZE, VALUES
from textrl_env.rewards import CompositeReward, FunctionReward, completion_text
from textrl_env.tasks.registry import Task
from textrl_env.tasks.text_overlap import rouge_l, rouge_n


def rouge1(prompts: list, completions: list, reference: list[str], **columns: Any) -> list[float]:
    """ROUGE-1 F1 with the reference summary, in [0, 1]."""
    return [rouge_n(wanted, completion_text(text)) for text, wanted in zip(completions, reference, strict=True)]


def rouge_lcs(prompts: list, completions: list, reference: list[str], **columns: Any) -> list[float]:
    """ROUGE-L F1 with the reference summary, in [0, 1]."""
    return [rouge_l(wanted, completion_text(text)) for text, wanted in zip(completions, reference, strict=True)]


def brevity(prompts: list, completions: list, reference: list[str], **columns: Any) -> list[float]:
    """1 up to 1.25 times the reference's words, falling evenly to 0 at twice as many; 0 for no word."""
    scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        share = len(completion_text(completion).split()) / len(wanted.split())
        scores.append(min(1.0, max(0.0, (2 - share) / 0.75)) if share else 0.0)
    return scores


def facts_kept(prompts: list, completions: list, facts: list[Mapping[str, str]], **columns: Any) -> list[float]:
    """Share of the four facts that are kept, less one of them for each false one; halved where it is not one sentence
    as a summary has it. In [0, 1].
    """
    scores = []
    for completion, true in zip(completions, facts, strict=True):
        text = completion_text(completion)
        words = set(re.findall(r"\w+", text))
        kept = sum(value in words for value in true.values())
        false = sum(value in words for name, values in VALUES.items() for value in values if value != true[name])
        form = 1.0 if SUMMARIZE.well_formed({}, text) else 0.5
        scores.append(max(0, kept - false) / len(true) * form)
    return scores


TASK = Task(
    name="summarize",
    prompts=lambda: SUMMARIZE.rows("train"),
    validation_prompts=lambda: SUMMARIZE.rows("validation"),
    heldout_prompts=lambda: SUMMARIZE.rows("heldout"),
    item=SUMMARIZE.item,
    reward=CompositeReward({"rouge1": (rouge1, 0.4), "rougeL": (rouge_lcs, 0.4), "brevity": (brevity, 0.2)}),
    gold=FunctionReward(facts_kept, timeout=None),
    kl_coef=0.05,
    max_prompt_tokens=64,
    max_new_tokens=40,
    description="summarize a passage in one sentence",
)
