"""`Long:`, a passage of four sentences, `Short:` -> one sentence that keeps who, where, when and what."""

from __future__ import annotations

from random import Random
from typing import Any

from textrl_env.language.format import Format, Row
from textrl_env.language.phrases import Phrases
from textrl_env.language.topics import NUMBERS
from textrl_env.language.words import CITIES, PEOPLE, THINGS, VEHICLES, WEEKDAYS

SIDE_FACTS = (
    "{name} came by {vehicle}.",
    "The way took {number} hours.",
    "The weather was {weather}.",
    "Lunch was {meal}.",
)
OPENING = "{name} went to {city} on {day}."
PURCHASE = "{name} bought a {thing} there."
SUMMARY = "{name} went to {city} on {day} and bought a {thing}."
VALUES = {"name": PEOPLE, "city": CITIES, "day": WEEKDAYS, "thing": THINGS}
"""The facts that a summary keeps, and what each can be."""

PHRASES = Phrases(
    {
        **VALUES,
        "vehicle": VEHICLES,
        "number": NUMBERS,
        "weather": ("cold", "fine", "pleasant", "damp"),
        "meal": ("good", "poor", "fresh", "stale"),
    }
)


def _draw(rng: Random) -> dict[str, Any]:
    facts = {name: rng.choice(values) for name, values in VALUES.items()}
    rest = [PURCHASE, *rng.sample(SIDE_FACTS, 2)]
    rng.shuffle(rest)
    passage = " ".join(PHRASES.write(rng, sentence, **facts) for sentence in (OPENING, *rest))
    return {
        "prompt": f"Long: {passage} Short:",
        "reference": PHRASES.write(rng, SUMMARY, **facts),
        "facts": facts,
        "passage": passage,
    }


def _item(row: Row) -> str:
    """The facts to keep, whatever else the passage says and in which order."""
    return " ".join(row["facts"].values())


def _right(rng: Random, row: Row) -> str:
    return f" {row['reference']}"


def _wrong(rng: Random, row: Row) -> str:
    """A false fact, half of the facts, or sentences of the passage as they are."""
    fault = rng.choice(("false", "false", "half", "copied"))
    if fault == "half":
        return " " + PHRASES.write(rng, OPENING, **row["facts"])
    if fault == "copied":
        return f" {row['passage']}"
    name = rng.choice(("city", "day", "thing"))
    other = rng.choice([value for value in VALUES[name] if value != row["facts"][name]])
    return " " + PHRASES.write(rng, SUMMARY, **{**row["facts"], name: other})


def _well_formed(row: Row, answer: str) -> bool:
    """One sentence of the two that a summary may be, about anyone."""
    return PHRASES.matches(answer.strip(), SUMMARY, OPENING, PURCHASE)


SUMMARIZE = Format("summarize", _draw, _item, _right, _wrong, _well_formed)
