"""`Words: cat, hill, lamp. Story: One day` -> ` the cat went to the hill. The cat found a lamp. It was a good day.`"""

from __future__ import annotations

from random import Random
from typing import Any

from textrl_env.language.format import Format, Row
from textrl_env.language.phrases import Phrases, sentences
from textrl_env.language.words import BEASTS, PLACES, THINGS

BEGINNING = "One day"
FIRST = "the {beast} {went} to the {place}."
LATER = (
    "The {beast} found a {thing}.",
    "There was a {thing} near the {place}.",
    "The {beast} took the {thing} home.",
    "It was a {weather} day.",
    "The {beast} was {mood}.",
)
CLOSING = (
    "Everyone was happy.",
    "It was a good day.",
    "Nobody ever forgot the {thing}.",
    "Then the {beast} went home.",
)
PHRASES = Phrases(
    {
        "beast": BEASTS,
        "place": PLACES,
        "thing": THINGS,
        "went": ("went", "ran", "walked", "came"),
        "weather": ("cold", "bright", "quiet", "warm"),
        "mood": ("proud", "glad", "hungry", "tired"),
    }
)


def _draw(rng: Random) -> dict[str, Any]:
    words = [rng.choice(each) for each in (BEASTS, PLACES, THINGS)]
    return {"prompt": f"Words: {', '.join(words)}. Story: {BEGINNING}", "words": words}


def _item(row: Row) -> str:
    """The three words."""
    return " ".join(row["words"])


def _story(rng: Random, beast: str, place: str, thing: str) -> list[str]:
    given = {"beast": beast, "place": place, "thing": thing}
    middle = rng.sample(LATER[:3], rng.choice((1, 2))) + rng.sample(LATER[3:], rng.choice((0, 0, 1)))
    return [PHRASES.write(rng, each, **given) for each in (FIRST, *middle, rng.choice(CLOSING))]


def _right(rng: Random, row: Row) -> str:
    return " " + " ".join(_story(rng, *row["words"]))


def _wrong(rng: Random, row: Row) -> str:
    """Another word than was asked for, no end, or a sentence over and over."""
    words = list(row["words"])
    fault = rng.choice(("word", "word", "cut", "loop"))
    if fault == "word":
        place = rng.randrange(3)
        words[place] = rng.choice((BEASTS, PLACES, THINGS)[place])
    told = _story(rng, *words)
    if fault == "loop":
        told[1:] = [told[1]] * rng.randint(2, 4)
    text = " " + " ".join(told)
    if fault == "cut":
        kept = text.split(" ")
        text = " ".join(kept[: rng.randint(4, len(kept) - 1)]).rstrip(".")
    return text


def is_story_sentence(sentence: str, is_first: bool) -> bool:
    """Whether the grammar of stories can write it: first behind the beginning, or later."""
    return PHRASES.matches(sentence, *((FIRST,) if is_first else (*LATER, *CLOSING)))


def _well_formed(row: Row, answer: str) -> bool:
    found = sentences(answer)
    return bool(found) and all(is_story_sentence(each, index == 0) for index, each in enumerate(found))


STORY = Format("story", _draw, _item, _right, _wrong, _well_formed, right_share=0.5)
