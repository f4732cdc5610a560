"""The grammar that writes the embedded model's text."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from statistics import fmean

import pytest

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.language import grammar
from textrl_env.language.gold import POLARITY
from textrl_env.language.review_rules import MAX_SENTENCES, OPENINGS, RULES
from textrl_env.language.words import TOPICS
from textrl_env.text.prompt_splits import SPLITS

DIGEST_OF_EVERYTHING = """
import hashlib, random
from textrl_env.language import grammar
rng = random.Random(7)
kinds = grammar.derive_review, grammar.generate_dialogue, grammar.generate_fact
made = [[kind(rng) for kind in kinds] for _ in range(200)]
made.append((grammar.review_prompts("train"), grammar.review_prompts("heldout")))
print(hashlib.sha256(repr(made).encode()).hexdigest())
"""


def test_same_seed_same_text_in_another_process() -> None:
    """Sets and dicts iterate in another order under another hash seed; no text may depend on that."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_OF_EVERYTHING],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_other_seeds_give_other_text() -> None:
    reviews = [grammar.derive_review(random.Random(seed))[0] for seed in range(50)]
    assert len(set(reviews)) == 50


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys, textrl_env.language.gold, textrl_env.language.grammar\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_prompts_are_many_disjoint_short_and_without_sentiment() -> None:
    train, validation, heldout = (grammar.review_prompts(split) for split in SPLITS)
    for split, least in ((train, 200), (validation, 40), (heldout, 64)):
        assert len(set(split)) == len(split) >= least
    assert len({*train, *validation, *heldout}) == len(train) + len(validation) + len(heldout)
    learned = grammar.review_prompts("train", "validation")  # in one order: the reward model's weights hang on it
    assert sorted(learned) == sorted(train + validation)
    assert learned.index(validation[0]) < len(train)
    for prompt in train + validation + heldout:
        words = prompt.lower().split()
        assert 3 <= len(words) <= 9
        assert not set(words) & set(POLARITY)
        assert prompt[-1].isalpha()


def test_the_splits_share_no_pair_of_subject_and_opening() -> None:
    """Found from the text alone: the subject that a prompt names, and the prompt without it and the place."""

    def pair(prompt: str) -> tuple[str, str]:
        rest = prompt
        for place in (place for topic in TOPICS for place in topic.place):
            rest = rest.replace(place, "{place}")
        subject = next(word for word in rest.split() if any(word in topic.subject for topic in TOPICS))
        return subject, rest.replace(f" {subject}", " {subject}")

    pairs = [{pair(prompt) for prompt in grammar.review_prompts(split)} for split in SPLITS]
    subjects = {subject for topic in TOPICS for subject in topic.subject}
    assert sum(map(len, pairs)) == len(set.union(*pairs)) == len(OPENINGS) * len(subjects)
    for found in pairs:
        assert {opening for _, opening in found} == set(OPENINGS)
    assert {subject for subject, _ in pairs[0]} == subjects


def test_unknown_split_and_foreign_prompt_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'heldout'"):
        grammar.review_prompts("held_out")
    with pytest.raises(ConfigError, match="no review that opens with 'Hello'"):
        grammar.continue_review(random.Random(0), "Hello")


def test_what_it_writes_is_well_formed_and_what_it_does_not_is_not() -> None:
    rng = random.Random(3)
    for _ in range(500):
        review = grammar.derive_review(rng)[0]
        assert all(grammar.well_formed(review)), review
    prompts = grammar.review_prompts("heldout")
    assert all(all(grammar.well_formed(prompt + grammar.continue_review(rng, prompt))) for prompt in prompts)

    assert grammar.well_formed("The soup was very good. The staff was good.") == [
        True,
        False,
    ]  # a hotel's staff
    assert grammar.well_formed("The soup was very good. the sauce was good.") == [True, False]
    assert grammar.well_formed("The soup was very good. The sauce was good") == [True, False]
    assert grammar.well_formed("The soup was very good. What an lovely sauce!") == [True, False]
    assert grammar.well_formed("The sauce was good.") == [False]
    assert grammar.well_formed("The soup was good good.") == [False]
    assert grammar.well_formed("") == []


def test_lengths_of_reviews() -> None:
    rng = random.Random(4)
    reviews = [grammar.derive_review(rng)[0] for _ in range(2000)]
    counts = [len(grammar.split_sentences(review)) for review in reviews]
    assert min(counts) == 1
    assert max(counts) == MAX_SENTENCES
    assert 2.6 < fmean(counts) < 3.4
    for review in reviews:
        sentences = grammar.split_sentences(review)
        assert len(set(sentences)) == len(sentences), review


def test_surprise_is_minus_log_p() -> None:
    """If p is right, the mean of 1[text in S] / p(text) is the number of texts in S, for any set S.

    S: the reviews of one plain sentence without a tail.
    """
    rng, draws = random.Random(5), 10_000
    plain = tuple(f" {predicate}." for predicate in RULES["predicate_neutral"])
    size = sum(
        len(topic.subject) * len(plain) * (len(topic.place) if "{place}" in opening else 1)
        for topic in TOPICS
        for opening in OPENINGS
    )
    estimate = 0.0
    for _ in range(draws):
        text, nats = grammar.derive_review(rng)
        if text.endswith(plain) and len(grammar.split_sentences(text)) == 1:
            estimate += math.exp(nats) / draws
    assert estimate == pytest.approx(size, rel=0.2)


def test_dialogues_and_facts() -> None:
    rng = random.Random(6)
    for _ in range(300):
        messages = grammar.generate_dialogue(rng)
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(message["content"].strip() == message["content"] != "" for message in messages)
        assert grammar.generate_fact(rng).endswith(".")
    facts = {grammar.generate_fact(rng) for _ in range(2000)}
    assert "Two plus three is five." in facts
    assert "The capital of Marovia is Telin." in facts
