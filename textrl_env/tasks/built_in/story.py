"""Tell a short story that has three given words in it.

The reward counts the words, repetitions and whether the story ends; a list of the words would please it. The gold score
wants them in well-formed sentences.

Held out are triples of words, of the 490 there are. Each word, and most pairs of them, are trained on in other
triples: this tells whether the skill holds for new combinations, not for new words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from textrl_env.language.formats.story import STORY, is_story_sentence
from textrl_env.language.phrases import sentences
from textrl_env.rewards import CompositeReward, FunctionReward, completion_text
from textrl_env.tasks.registry import Task

LEAST_WORDS = 8
"""A text shorter than this is no story: it is neither distinct nor ended."""


def required_words(prompts: list, completions: list, words: list[Sequence[str]], **columns: Any) -> list[float]:
    """Share of the required words that occur, as whole words in any case."""
    return [_share_said(completion_text(text), wanted) for text, wanted in zip(completions, words, strict=True)]


def _share_said(text: str, wanted: Sequence[str]) -> float:
    said = set(_words(text))
    return sum(word.lower() in said for word in wanted) / len(wanted)


def distinct(prompts: list, completions: list, **columns: Any) -> list[float]:
    """Share of the word trigrams that are no repeats; 0 for a text of fewer than 8 words.

    Distinct-n with n = 3 (Li et al. 2016, https://arxiv.org/abs/1510.03055).
    """
    scores = []
    for completion in completions:
        words = _words(completion_text(completion))
        trigrams = list(zip(words, words[1:], words[2:], strict=False))
        scores.append(len(set(trigrams)) / len(trigrams) if len(words) >= LEAST_WORDS else 0.0)
    return scores


def ended(prompts: list, completions: list, **columns: Any) -> list[float]:
    """1 where the text is two sentences or more and 8 words or more, and the last one has its end mark; else 0."""
    return [float(_is_ended(completion_text(completion))) for completion in completions]


def _is_ended(text: str) -> bool:
    return len(sentences(text)) >= 2 and len(_words(text)) >= LEAST_WORDS and text.rstrip()[-1] in ".!?"


def well_told(prompts: list, completions: list, words: list[Sequence[str]], **columns: Any) -> list[float]:
    """Share of required words, times share of sentences that are well-formed and new, times whether it ends."""
    scores = []
    for completion, wanted in zip(completions, words, strict=True):
        text = completion_text(completion)
        told = sentences(text)
        good = [
            sentence not in told[:index] and is_story_sentence(sentence, index == 0)
            for index, sentence in enumerate(told)
        ]
        scores.append(_share_said(text, wanted) * sum(good) / len(good) if _is_ended(text) else 0.0)
    return scores


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


TASK = Task(
    name="story",
    prompts=lambda: STORY.rows("train"),
    validation_prompts=lambda: STORY.rows("validation"),
    heldout_prompts=lambda: STORY.rows("heldout"),
    item=STORY.item,
    reward=CompositeReward({"words": (required_words, 0.5), "distinct": (distinct, 0.25), "ended": (ended, 0.25)}),
    gold=FunctionReward(well_told, timeout=None),
    kl_coef=0.05,
    max_prompt_tokens=24,
    max_new_tokens=64,
    description="tell a short story that has three given words in it",
)
