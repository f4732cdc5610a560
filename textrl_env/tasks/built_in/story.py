"""Tell a short story that has three given words in it.

`Words: cat, hill, lamp. Story: One day` -> ` the cat went to the hill. The cat found a lamp. It was a good day.`

The reward counts the words and the repetitions, and checks that the story ends; a list of the words would please it.
The gold score wants the words in well-formed sentences.

Held out are triples of words, of the 490 there are. Each word, and most pairs of words, are trained on in other
triples. So this tells whether the skill holds for new combinations, not for new words.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from textrl_env.language.phrases import Phrases, sentences, words_of
from textrl_env.language.words import BEASTS, PLACES, THINGS
from textrl_env.rewards import CompositeReward, FunctionReward, completion_text
from textrl_env.tasks.task import Format, Row, Task

# --- prompts and answers ----------------------------------------------------------------------------------

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
    """Name the three words."""
    return " ".join(row["words"])


def _story(rng: Random, beast: str, place: str, thing: str) -> list[str]:
    given = {"beast": beast, "place": place, "thing": thing}
    middle = rng.sample(LATER[:3], rng.choice((1, 2))) + rng.sample(LATER[3:], rng.choice((0, 0, 1)))
    return [PHRASES.write(rng, each, **given) for each in (FIRST, *middle, rng.choice(CLOSING))]


def _right(rng: Random, row: Row) -> str:
    return " " + " ".join(_story(rng, *row["words"]))


def _wrong(rng: Random, row: Row) -> str:
    """Use another word than was asked for, do not end, or say a sentence over and over."""
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
    """Say whether the grammar of stories can write the sentence: right behind the beginning, or later."""
    return PHRASES.matches(sentence, *((FIRST,) if is_first else (*LATER, *CLOSING)))


def _well_formed(row: Row, answer: str) -> bool:
    found = sentences(answer)
    return bool(found) and all(is_story_sentence(each, index == 0) for index, each in enumerate(found))


FORMAT = Format("story", _draw, _item, _right, _wrong, _well_formed, right_share=0.5, share=0.02)


# --- scores -----------------------------------------------------------------------------------------------

LEAST_WORDS = 8
"""A text shorter than this is no story: it is neither distinct nor ended."""


def required_words(
    prompts: list[Any], completions: list[Any], words: list[Sequence[str]], **columns: Any
) -> list[float]:
    """Score the share of the required words that occur, as whole words in any case."""
    return [_share_said(completion_text(text), wanted) for text, wanted in zip(completions, words, strict=True)]


def _share_said(text: str, wanted: Sequence[str]) -> float:
    said = set(words_of(text))
    return sum(word.lower() in said for word in wanted) / len(wanted)


def distinct(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Score the share of word trigrams that are no repeats; 0 for a text of fewer than 8 words.

    Distinct-n with n = 3 (Li et al. 2016, https://arxiv.org/abs/1510.03055).
    """
    scores = []
    for completion in completions:
        words = words_of(completion_text(completion))
        trigrams = list(zip(words, words[1:], words[2:], strict=False))
        scores.append(len(set(trigrams)) / len(trigrams) if len(words) >= LEAST_WORDS else 0.0)
    return scores


def ended(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Score 1 where the text has two sentences and 8 words or more, and the last sentence has its end mark; else 0."""
    return [float(_is_ended(completion_text(completion))) for completion in completions]


def _is_ended(text: str) -> bool:
    return len(sentences(text)) >= 2 and len(words_of(text)) >= LEAST_WORDS and text.rstrip()[-1] in ".!?"


def well_told(prompts: list[Any], completions: list[Any], words: list[Sequence[str]], **columns: Any) -> list[float]:
    """Score the share of required words times the share of well-formed, new sentences; 0 where it does not end."""
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


TASK = Task(
    name="story",
    **FORMAT.prompt_arguments(),
    reward=CompositeReward({"words": (required_words, 0.5), "distinct": (distinct, 0.25), "ended": (ended, 0.25)}),
    gold=FunctionReward(well_told, timeout=None),
    max_prompt_tokens=24,
    max_new_tokens=64,
    description="tell a short story that has three given words in it",
)
