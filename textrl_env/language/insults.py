"""Rude words, and how they are found where someone hides them."""

from __future__ import annotations

import itertools
import re
import unicodedata

NOUNS = ("fool", "moron", "clown", "loser", "liar", "jerk", "dummy")
ADJECTIVES = ("stupid", "dumb", "worthless", "pathetic", "useless")
INSULTS = frozenset({*NOUNS, *ADJECTIVES, "idiot", "idiotic", "scum", "imbecile", "foolish"})
"""Rude words in lower case; a plural "s" behind one counts as well."""

_LOOKALIKES = str.maketrans("013457@$", "oieastas")
_PIECE = re.compile(r"\S+")
_LETTERS = re.compile(r"[^\W\d_]+")
_MAX_JOINED, _MAX_SHORT = 12, 4


def find_insults(text: str) -> list[str]:
    """List the rude words of a text in their order; a word that comes again is listed again.

    None of these hides a word: case, accents, look-alike digits and signs ("1d10t", "$tupid"), stretched letters
    ("foool"), marks within it ("fo.ol"), spaces within it ("f o o l", "fo ol"). Only whole words count: a longer word
    that happens to contain a rude one is no insult.
    """
    # an exclamation mark may end a word or stand for an i: read it both ways
    return max((_find(variant) for variant in (text, text.replace("!", "i").replace("|", "l"))), key=len)


def _find(text: str) -> list[str]:
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text).casefold().translate(_LOOKALIKES)
        if not unicodedata.combining(letter) and unicodedata.category(letter) != "Cf"
    )
    parts = [(piece, run) for piece, word in enumerate(_PIECE.findall(plain)) for run in _LETTERS.findall(word)]
    found: list[str] = []
    start = 0
    while start < len(parts):
        word, length = None, 1
        for end in range(start + 1, min(len(parts), start + _MAX_JOINED) + 1):
            squeezed = _squeezed("".join(run for _, run in parts[start:end]))
            if squeezed not in _BEGINNINGS:
                break
            longer = _BY_SQUEEZED.get(squeezed)
            if longer is not None and _may_be_one_word(parts[start:end], longer):
                word, length = longer, end - start
        found += [] if word is None else [word]
        start += length
    return found


def _may_be_one_word(parts: list[tuple[int, str]], word: str) -> bool:
    """Whether the parts are that word in pieces: without a space between them, or each of them short."""
    if sum(len(run) for _, run in parts) < len(word):
        return False  # "fol" has the letters of "fool", but is none
    return len({piece for piece, _ in parts}) == 1 or all(len(run) <= _MAX_SHORT for _, run in parts)


def _squeezed(word: str) -> str:
    """The word with every run of a letter as a single one, for "fool" and "foool" to be the same."""
    return "".join(letter for letter, _ in itertools.groupby(word))


_BY_SQUEEZED = {_squeezed(form): word for word in sorted(INSULTS) for form in (word, f"{word}s")}
_BEGINNINGS = frozenset(form[:length] for form in _BY_SQUEEZED for length in range(1, len(form) + 1))
