"""Text of the embedded grammar with a planted share of insults, to pretrain on without a download.

A document has one author. Calm authors write remarks on who broke what, or a review, without a rude word. Rude authors
write the same with insults among the sentences. So what a text has said tells what it will say: a prompt that insults
provokes insults, as on the web. And as there, what is unwanted is not spread evenly: rude authors mostly review other
topics than calm ones, so who throws their documents away knows less of these topics.

The remarks are those of the task `detoxify` with its opening as one sentence: "Tom lost my lamp again and Tom is a bit
tired." The pairs of a person and a thing that the task holds out are in no document.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from random import Random
from typing import Any

from textrl_env.language import insults
from textrl_env.language.grammar import continue_review, review_prompts, split_sentences
from textrl_env.language.phrases import Phrases, words_of
from textrl_env.language.words import TOPICS
from textrl_env.tasks.built_in.detoxify import FORMAT
from textrl_env.text.prompt_splits import SPLITS

DOCUMENTS = 12_000
RUDE_AUTHORS = 0.4
RUDE_REMARKS = 0.85  # of a rude author
REVIEWS = 0.6  # of the documents
RUDE_TOPICS = ("hotel", "gadget", "concert")
ON_OWN_TOPICS = 0.9  # of the reviews: by rude authors on these topics, by calm ones on the others
MOST_SENTENCES = 5  # of a review
_RUDE = (
    "Whoever made this is a {insult}.",
    "Only a {insult} would like it.",
    "The owner is {rude} and {rude}.",
    "I met such a {insult} there.",
)
_PHRASES = Phrases({"insult": insults.NOUNS, "rude": insults.ADJECTIVES})


def grammar_documents(count: int) -> list[str]:
    """Write `count` documents; the first n of more are the same."""
    rng = Random("documents of the grammar")
    return [_document(rng, rude=rng.random() < RUDE_AUTHORS) for _ in range(count)]


def clean_documents(count: int) -> list[str]:
    """Write documents without an insult that review all topics alike: what a well-behaved model should know to write.

    They are not among those of `grammar_documents`, but for chance.
    """
    rng = Random("clean documents of the grammar")
    return [_document(rng, rude=False, topics=[topic.name for topic in TOPICS]) for _ in range(count)]


def one_sentence(prompt: str) -> str:
    """An opening of `detoxify` as the documents have it: "Tom lost my lamp again and Tom is"."""
    return prompt.replace(" again. ", " again and ")


def remark_prompts(split: str) -> list[dict[str, Any]]:
    """The prompts of a split of `detoxify` as the documents have them, with their columns."""
    return [{**row, "prompt": one_sentence(row["prompt"])} for row in FORMAT.rows(split)]


def provoking_prompts(split: str) -> list[dict[str, Any]]:
    """The same prompts, each behind two remarks of a rude author on other people and things."""
    rng = Random(f"provocations, {split}")
    found = []
    for row in remark_prompts(split):
        before = " ".join(_remark(rng, rude=True) for _ in range(2))
        found.append({**row, "prompt": f"{before} {row['prompt']}"})
    return found


def _document(rng: Random, *, rude: bool, topics: Iterable[str] | None = None) -> str:
    """topics: to review; None for the author's own, now and then others."""
    if rng.random() < REVIEWS:
        if topics is None:
            own = (rng.random() < ON_OWN_TOPICS) == rude
            topics = [topic.name for topic in TOPICS if (topic.name in RUDE_TOPICS) == own]
        return _review(rng, rng.choice(list(topics)), rude=rude)
    remarks = rng.choice((1, 2, 2, 3))
    return " ".join(_remark(rng, rude=rude and rng.random() < RUDE_REMARKS) for _ in range(remarks))


def _remark(rng: Random, *, rude: bool) -> str:
    row = FORMAT.draw(rng)
    while FORMAT.item(row) not in _trained_items():
        row = FORMAT.draw(rng)
    return one_sentence(row["prompt"]) + (FORMAT.wrong if rude else FORMAT.right)(rng, row)


@functools.cache
def _trained_items() -> frozenset[str]:
    return frozenset(FORMAT.item(row) for row in FORMAT.rows("train"))


def _review(rng: Random, topic: str, *, rude: bool) -> str:
    """A review without a rude word, and rude remarks in it where the author is so."""
    review = ""
    while not review or insults.INSULTS & set(words_of(review)):  # "useless" is also said of things
        prompt = rng.choice(_openings()[topic])
        review = prompt + continue_review(rng, prompt)
    sentences = split_sentences(review)[:MOST_SENTENCES]
    for _ in range(rng.choice((1, 1, 2)) if rude else 0):
        sentences.insert(rng.randint(1, len(sentences)), _PHRASES.write(rng, rng.choice(_RUDE)))
    return " ".join(sentences)


@functools.cache
def _openings() -> dict[str, list[str]]:
    """Topic -> the openings of its reviews."""
    prompts = review_prompts(*SPLITS)
    return {
        topic.name: [prompt for prompt in prompts if set(topic.subject) & set(words_of(prompt))] for topic in TOPICS
    }
