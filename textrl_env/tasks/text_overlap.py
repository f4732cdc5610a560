"""How much two texts share: ROUGE, and the exact match and F1 of SQuAD. Pure functions of two strings, in [0, 1]."""

from __future__ import annotations

import re
import string
from collections import Counter

_ROUGE_WORD = re.compile(r"[a-z0-9]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_n(reference: str, text: str, n: int = 1) -> float:
    """Return ROUGE-N as F1 of the shared word n-grams, each counted as often as in the text that has fewer of it.

    Words are runs of a-z and 0-9 in lower case, without stemming, as in Google's `rouge_score`
    (Lin 2004, https://aclanthology.org/W04-1013, section 2). 0 where either has no n-gram.
    """
    left, right = (_ngrams(_rouge_words(each), n) for each in (reference, text))
    return _f1((left & right).total(), left.total(), right.total())


def rouge_l(reference: str, text: str) -> float:
    """Return ROUGE-L as F1 of the longest common subsequence of words, taking each text as one sentence.

    Lin 2004, section 3.1, with beta = 1. Time grows as the product of both texts' words, memory as the words of `text`.
    """
    left, right = _rouge_words(reference), _rouge_words(text)
    lengths = [0] * (len(right) + 1)  # of the longest common subsequence of left so far and right[:i]
    for word in left:
        diagonal = 0
        for i, other in enumerate(right, start=1):
            above = lengths[i]
            lengths[i] = diagonal + 1 if word == other else max(above, lengths[i - 1])
            diagonal = above
    return _f1(lengths[-1], len(left), len(right))


def squad_normalized(text: str) -> str:
    """Put in lower case and drop punctuation, articles and superfluous spaces, as SQuAD's evaluation script does
    (Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, section 6.1).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_exact_match(answer: str, text: str) -> float:
    """Return 1 where both are the same after normalisation, else 0."""
    return float(squad_normalized(answer) == squad_normalized(text))


def squad_f1(answer: str, text: str) -> float:
    """Return F1 over the words of both after normalisation; where a text has no words, 1 if both have none, else 0."""
    left, right = (Counter(squad_normalized(each).split()) for each in (answer, text))
    if not left or not right:
        return float(left == right)
    return _f1((left & right).total(), left.total(), right.total())


def _rouge_words(text: str) -> list[str]:
    return _ROUGE_WORD.findall(text.lower())


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _f1(common: int, left: int, right: int) -> float:
    """2PR / (P + R) with P = common / right and R = common / left."""
    return 2 * common / (left + right) if common else 0.0
