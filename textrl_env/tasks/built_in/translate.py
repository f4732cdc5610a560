"""Translate a sentence into Lumi: `English: the small cat sees the bird. Lumi:` -> ` vedo mika tilo sora`.

Lumi is a made-up language of 20 words. It puts the verb first, then who does it, then to whom. An adjective follows its
noun, and there are no articles. The reward is sacrebleu's chrF (Popovic 2015, https://aclanthology.org/W15-3049), which
compares pieces of words and so pays well for the right words in the wrong order. The gold score wants each word in its
place.

Held out are sets of words: no sentence that is trained on has the same words in other roles. Each word is trained on in
other sentences, so this tells whether the order is learned, not whether a word can be guessed.
"""

from __future__ import annotations

import functools
from random import Random
from typing import Any

from textrl_env.errors import MissingExtra
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.task import Format, Row, Task

# --- prompts and answers ----------------------------------------------------------------------------------

NOUNS = {
    "cat": "mika",
    "dog": "rogu",
    "bird": "sora",
    "horse": "kuta",
    "hen": "pelu",
    "child": "nani",
    "mother": "yela",
    "father": "dolo",
}
VERBS = {"sees": "vedo", "likes": "amu", "finds": "truvi", "follows": "seki", "helps": "buna", "hears": "odi"}
ADJECTIVES = {"small": "tilo", "big": "gano", "old": "vesta", "red": "rika", "happy": "felu", "quiet": "simo"}
WORDS = frozenset({*NOUNS.values(), *VERBS.values(), *ADJECTIVES.values()})
"""Every word of Lumi."""


def _noun_phrase(rng: Random) -> tuple[list[str], list[str]]:
    """Draw the English words and the Lumi words of "the (adjective) noun"."""
    noun, adjective = rng.choice(tuple(NOUNS)), rng.choice(tuple(ADJECTIVES))
    if rng.random() < 0.5:
        return ["the", noun], [NOUNS[noun]]
    return ["the", adjective, noun], [NOUNS[noun], ADJECTIVES[adjective]]


def _draw(rng: Random) -> dict[str, Any]:
    (who, lumi_who), (whom, lumi_whom) = _noun_phrase(rng), _noun_phrase(rng)
    verb = rng.choice(tuple(VERBS))
    english = " ".join([*who, verb, *whom])
    return {"prompt": f"English: {english}. Lumi:", "reference": " ".join([VERBS[verb], *lumi_who, *lumi_whom])}


def _item(row: Row) -> str:
    """Name the words of the sentence: it stays the same item whoever does it to whom."""
    return " ".join(sorted(row["reference"].split()))


def _right(rng: Random, row: Row) -> str:
    return f" {row['reference']}"


def _wrong(rng: Random, row: Row) -> str:
    """Put a word of the same class in another's place, leave a word out, or keep the English order."""
    words = row["reference"].split()
    place = rng.randrange(len(words))
    fault = rng.choice(("word", "word", "missing", "order"))
    if fault == "word":
        lexicon = next(each for each in (NOUNS, VERBS, ADJECTIVES) if words[place] in each.values())
        words[place] = rng.choice([word for word in lexicon.values() if word != words[place]])
    elif fault == "missing":
        del words[place]
    else:
        words = [*words[1:-1], words[0], words[-1]]
    return " " + " ".join(words)


def _well_formed(row: Row, answer: str) -> bool:
    words = answer.split()
    return 2 <= len(words) <= 5 and all(word in WORDS for word in words)


FORMAT = Format("translate", _draw, _item, _right, _wrong, _well_formed, share=0.036)


# --- scores -----------------------------------------------------------------------------------------------


@functools.cache
def _chrf() -> Any:
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise MissingExtra("tasks", "sacrebleu") from None
    return CHRF()


def chrf(prompts: list[Any], completions: list[Any], reference: list[str], **columns: Any) -> list[float]:
    """Score chrF of completion and reference, in [0, 1]. Raises `MissingExtra` without sacrebleu."""
    metric = _chrf()
    return [
        metric.sentence_score(completion_text(text).strip(), [wanted]).score / 100
        for text, wanted in zip(completions, reference, strict=True)
    ]


def words_in_place(prompts: list[Any], completions: list[Any], reference: list[str], **columns: Any) -> list[float]:
    """Score the share of words that are right and in their place, of the longer of both texts; in [0, 1]."""
    scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        said, words = completion_text(completion).split(), wanted.split()
        hits = sum(left == right for left, right in zip(said, words, strict=False))
        scores.append(hits / max(len(said), len(words)))
    return scores


TASK = Task(
    name="translate",
    **FORMAT.prompt_arguments(),
    reward=FunctionReward(chrf, timeout=None),
    gold=FunctionReward(words_in_place, timeout=None),
    requires={"sacrebleu": "tasks"},
    max_prompt_tokens=32,
    max_new_tokens=24,
    description="translate a sentence into a made-up language",
)
