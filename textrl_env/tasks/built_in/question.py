"""Answer a question from a passage: `Facts: Tom lives in Korin. ... Where does Tom live? Tom lives in` -> ` Korin.`

A passage has three facts. In half of the passages two facts are of the same kind about different people, so that it
matters who is meant. The reward is SQuAD's F1, which pays in part for an answer that says more than was asked; the gold
score is SQuAD's exact match.

Held out are sets of three facts. None is trained on in another order or with another question. Single facts occur in
both. They give nothing away, since the passage decides.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any

from textrl_env.language.words import CITIES, FOODS, PEOPLE, THINGS, VEHICLES
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.task import Format, Row, Task
from textrl_env.tasks.text_overlap import squad_exact_match, squad_f1

# --- prompts and answers ----------------------------------------------------------------------------------

RELATIONS = {  # relation -> (question, beginning of the statement, values)
    "home": ("Where does {name} live?", "{name} lives in", CITIES),
    "food": ("What does {name} like?", "{name} likes", FOODS),
    "thing": ("What does {name} have?", "{name} has a", THINGS),
    "way": ("How did {name} come?", "{name} came by", VEHICLES),
}


def _draw(rng: Random) -> dict[str, Any]:
    """Draw three facts about two people. In half of the passages two have one relation, so it matters who is meant."""
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
    """Name the facts of the passage, in whatever order and whichever of them is asked for."""
    return " ".join(sorted(row["passage"].removesuffix(".").split(". ")))


def _right(rng: Random, row: Row) -> str:
    return f" {row['answer']}."


def _wrong(rng: Random, row: Row) -> str:
    """Say what the passage says of someone else (if it does) or what it does not say, or answer and say more."""
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


FORMAT = Format("question", _draw, _item, _right, _wrong, _well_formed, right_share=0.7, share=0.071)


# --- scores -----------------------------------------------------------------------------------------------


def answer_f1(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Score SQuAD's F1 of completion and answer, in [0, 1]."""
    return [squad_f1(wanted, completion_text(text)) for text, wanted in zip(completions, answer, strict=True)]


def answer_exact_match(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Score SQuAD's exact match of completion and answer, 0 or 1."""
    return [squad_exact_match(wanted, completion_text(text)) for text, wanted in zip(completions, answer, strict=True)]


TASK = Task(
    name="question",
    **FORMAT.prompt_arguments(),
    reward=FunctionReward(answer_f1, timeout=None),
    gold=FunctionReward(answer_exact_match, timeout=None),
    max_prompt_tokens=48,
    max_new_tokens=12,
    description="answer a question from a passage",
)
