"""`Facts: Tom lives in Korin. ... Where does Tom live? Tom lives in` -> ` Korin.`: a fact from the passage."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from textrl_env.language.format import Format, Row
from textrl_env.language.words import CITIES, FOODS, PEOPLE, THINGS, VEHICLES

RELATIONS = {  # relation -> (question, beginning of the statement, values)
    "home": ("Where does {name} live?", "{name} lives in", CITIES),
    "food": ("What does {name} like?", "{name} likes", FOODS),
    "thing": ("What does {name} have?", "{name} has a", THINGS),
    "way": ("How did {name} come?", "{name} came by", VEHICLES),
}


def _draw(rng: Random) -> dict[str, Any]:
    """Three facts about two people; in half of the passages two of one relation, so that it matters who is meant."""
    relation, *others = rng.sample(tuple(RELATIONS), 3)
    names = rng.sample(PEOPLE, 2)
    values = rng.sample(RELATIONS[relation][2], 2)
    facts = [(names[0], relation, values[0]), (rng.choice(names), others[0], rng.choice(RELATIONS[others[0]][2]))]
    if rng.random() < 0.5:
        facts.append((names[1], relation, values[1]))
    else:
        facts.append((names[1], others[1], rng.choice(RELATIONS[others[1]][2])))
    rng.shuffle(facts)
    passage = " ".join(f"{RELATIONS[each][1].format(name=name)} {value}." for name, each, value in facts)
    question, beginning = (part.format(name=names[0]) for part in RELATIONS[relation][:2])
    return {
        "prompt": f"Facts: {passage} {question} {beginning}",
        "answer": values[0],
        "relation": relation,
        "passage": passage,
    }


def _item(row: Row) -> str:
    """The facts of the passage, in whatever order and whichever of them is asked for."""
    return " ".join(sorted(row["passage"].removesuffix(".").split(". ")))


def _right(rng: Random, row: Row) -> str:
    return f" {row['answer']}."


def _wrong(rng: Random, row: Row) -> str:
    """What the passage says of someone else if it does, what it does not say, or the answer and more."""
    values = [value for value in RELATIONS[row["relation"]][2] if value != row["answer"]]
    said = [value for value in values if value in row["passage"]] or values
    fault = rng.choice(("said", "said", "other", "more"))
    if fault == "said":
        return f" {rng.choice(said)}."
    if fault == "other":
        return f" {rng.choice(values)}."
    return f" {row['answer']} and {rng.choice(values)}."


def _well_formed(row: Row, answer: str) -> bool:
    value = "|".join(RELATIONS[row["relation"]][2])
    return re.fullmatch(rf"(?:{value})(?: and (?:{value}))?\.", answer.strip()) is not None


QUESTION = Format("question", _draw, _item, _right, _wrong, _well_formed, right_share=0.7)
