"""Translate a sentence into Lumi, a made-up language of 20 words with an order of its own.

The reward is chrF (Popovic 2015, https://aclanthology.org/W15-3049) by sacrebleu, which compares pieces of words and so
pays well for the right words in the wrong order; the gold score wants each word in its place.

Held out are sets of words: no sentence that is trained on has the same ones in other roles. Each word is trained on in
other sentences, so this tells whether the order is learned, not whether a word can be guessed.
"""

from __future__ import annotations

import functools
from typing import Any

from textrl_env.errors import MissingExtra
from textrl_env.language.formats.translate import TRANSLATE
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.registry import Task


@functools.cache
def _chrf() -> Any:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        raise MissingExtra("tasks", "sacrebleu") from None
    return CHRF()


def chrf(prompts: list, completions: list, reference: list[str], **columns: Any) -> list[float]:
    """chrF of completion and reference, in [0, 1]. Raises `MissingExtra` without sacrebleu."""
    metric = _chrf()
    return [
        metric.sentence_score(completion_text(text).strip(), [wanted]).score / 100
        for text, wanted in zip(completions, reference, strict=True)
    ]


def words_in_place(prompts: list, completions: list, reference: list[str], **columns: Any) -> list[float]:
    """Share of words that are right and in their place, of the longer of completion and reference; in [0, 1]."""
    scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        said, words = completion_text(completion).split(), wanted.split()
        hits = sum(left == right for left, right in zip(said, words, strict=False))
        scores.append(hits / max(len(said), len(words)))
    return scores


TASK = Task(
    name="translate",
    prompts=lambda: TRANSLATE.rows("train"),
    validation_prompts=lambda: TRANSLATE.rows("validation"),
    heldout_prompts=lambda: TRANSLATE.rows("heldout"),
    item=TRANSLATE.item,
    reward=FunctionReward(chrf, timeout=None),
    gold=FunctionReward(words_in_place, timeout=None),
    requires={"sacrebleu": "tasks"},
    kl_coef=0.05,
    max_prompt_tokens=32,
    max_new_tokens=24,
    description="translate a sentence into a made-up language",
)
