"""`English: the small cat sees the bird. Lumi:` -> ` vedo mika tilo sora`: a made-up language.

Lumi puts the verb first, then who does it, then to whom; an adjective follows its noun, and there are no articles.
"""

from __future__ import annotations

from random import Random
from typing import Any

from textrl_env.language.format import Format, Row

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
    """English words and Lumi words of "the (adjective) noun"."""
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
    """The words of the sentence: who does it to whom makes no other one of it."""
    return " ".join(sorted(row["reference"].split()))


def _right(rng: Random, row: Row) -> str:
    return f" {row['reference']}"


def _wrong(rng: Random, row: Row) -> str:
    """A word of the same class in another's place, a word left out, or English order."""
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


TRANSLATE = Format("translate", _draw, _item, _right, _wrong, _well_formed)
