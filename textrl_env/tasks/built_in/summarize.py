"""Summarize a passage of four sentences in one that keeps who, where, when and what: `Long: ... Short:`.

The reward compares words with a reference summary, so a false fact costs no more than a word that is put differently.
The gold score checks the facts themselves.

Held out are combinations of the four facts to keep. None is trained on in another order, or with other sentences beside
it. Each single fact is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Any

from textrl_env.language.phrases import Phrases
from textrl_env.language.words import CITIES, DAYS, NUMBERS, PEOPLE, THINGS, VEHICLES
from textrl_env.rewards import CompositeReward, FunctionReward, completion_text
from textrl_env.tasks.task import Format, Row, Task
from textrl_env.tasks.text_overlap import rouge_l, rouge_n

# --- prompts and answers ----------------------------------------------------------------------------------

SIDE_FACTS = (
    "{name} came by {vehicle}.",
    "The way took {number} hours.",
    "The weather was {weather}.",
    "Lunch was {meal}.",
)
OPENING = "{name} went to {city} on {day}."
PURCHASE = "{name} bought a {thing} there."
SUMMARY = "{name} went to {city} on {day} and bought a {thing}."
VALUES = {"name": PEOPLE, "city": CITIES, "day": DAYS, "thing": THINGS}
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
    """Name the facts to keep, whatever else the passage says and in whatever order."""
    return " ".join(row["facts"].values())


def _right(rng: Random, row: Row) -> str:
    return f" {row['reference']}"


def _wrong(rng: Random, row: Row) -> str:
    """Say a false fact or half of the facts, or copy the passage."""
    fault = rng.choice(("false", "false", "half", "copied"))
    if fault == "half":
        return " " + PHRASES.write(rng, OPENING, **row["facts"])
    if fault == "copied":
        return f" {row['passage']}"
    name = rng.choice(("city", "day", "thing"))
    other = rng.choice([value for value in VALUES[name] if value != row["facts"][name]])
    return " " + PHRASES.write(rng, SUMMARY, **{**row["facts"], name: other})


def _well_formed(row: Row, answer: str) -> bool:
    """Accept the sentences that a summary, or a half of one, may be, about anyone."""
    return PHRASES.matches(answer.strip(), SUMMARY, OPENING, PURCHASE)


FORMAT = Format("summarize", _draw, _item, _right, _wrong, _well_formed, share=0.022)


# --- scores -----------------------------------------------------------------------------------------------


def rouge1(prompts: list[Any], completions: list[Any], reference: list[str], **columns: Any) -> list[float]:
    """Score ROUGE-1 F1 with the reference summary, in [0, 1]."""
    return [rouge_n(wanted, completion_text(text)) for text, wanted in zip(completions, reference, strict=True)]


def rouge_lcs(prompts: list[Any], completions: list[Any], reference: list[str], **columns: Any) -> list[float]:
    """Score ROUGE-L F1 with the reference summary, in [0, 1]."""
    return [rouge_l(wanted, completion_text(text)) for text, wanted in zip(completions, reference, strict=True)]


def brevity(prompts: list[Any], completions: list[Any], reference: list[str], **columns: Any) -> list[float]:
    """Score 1 up to 1.25 times the reference's words, falling evenly to 0 at twice as many; 0 for no word."""
    scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        share = len(completion_text(completion).split()) / len(wanted.split())
        scores.append(min(1.0, max(0.0, (2 - share) / 0.75)) if share else 0.0)
    return scores


def facts_kept(
    prompts: list[Any], completions: list[Any], facts: list[Mapping[str, str]], **columns: Any
) -> list[float]:
    """Score the share of the four facts that are kept, less a fact for each false one. In [0, 1].

    Halved where the text is not one sentence as a summary has it.
    """
    scores = []
    for completion, true in zip(completions, facts, strict=True):
        text = completion_text(completion)
        words = set(re.findall(r"\w+", text))
        kept = sum(value in words for value in true.values())
        false = sum(value in words for name, values in VALUES.items() for value in values if value != true[name])
        form = 1.0 if FORMAT.well_formed({}, text) else 0.5
        scores.append(max(0, kept - false) / len(true) * form)
    return scores


TASK = Task(
    name="summarize",
    **FORMAT.prompt_arguments(),
    reward=CompositeReward({"rouge1": (rouge1, 0.4), "rougeL": (rouge_lcs, 0.4), "brevity": (brevity, 0.2)}),
    gold=FunctionReward(facts_kept, timeout=None),
    max_prompt_tokens=64,
    max_new_tokens=40,
    description="summarize a passage in one sentence",
)
