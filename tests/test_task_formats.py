"""The formats that the tasks' prompts and the training text share, and the readers of answers that they bring."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from fractions import Fraction
from random import Random
from statistics import fmean
from typing import Any

import pytest

from textrl_env.errors import UnknownName
from textrl_env.language.expressions import MAX_CHARACTERS, read_expression
from textrl_env.language.goods import GROUP_OF, GROUPS
from textrl_env.language.insults import find_insults
from textrl_env.language.phrases import Phrases
from textrl_env.rewards import make_reward, score_episodes
from textrl_env.tasks import get_task
from textrl_env.tasks.built_in.detoxify import fluency
from textrl_env.tasks.built_in.summarize import VALUES
from textrl_env.tasks.registry import built_in_formats
from textrl_env.tasks.task import Format
from textrl_env.text.prompt_splits import SPLITS

FORMATS = built_in_formats()
DIGEST = """
import hashlib, random
from textrl_env.tasks.registry import built_in_formats
rng, made = random.Random(7), []
for form in built_in_formats().values():
    rows = [form.draw(rng) for _ in range(50)]
    splits = [form.rows(split) for split in ("train", "validation", "heldout")]
    made.append((rows, [form.answer(rng, row) for row in rows], splits))
print(hashlib.sha256(repr(made).encode()).hexdigest())
"""


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def form(request: pytest.FixtureRequest) -> Format:
    return request.param


def scores(name: str, rows: list[dict[str, Any]], answers: list[str], *, gold: bool = False) -> list[float]:
    """The task's score of each answer."""
    task = get_task(name)
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    reward = make_reward(task.gold if gold else task.reward)
    return score_episodes(reward, [row["prompt"] for row in rows], answers, None, columns).scores.tolist()


def test_same_seed_same_text_in_another_process():
    """Sets and dicts iterate in another order under another hash seed; no prompt or answer may depend on that."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_splits_share_no_prompt_and_no_item(form: Format):
    rows = {split: form.rows(split) for split in SPLITS}
    prompts = {split: [repr(row["prompt"]) for row in found] for split, found in rows.items()}
    items = {split: {form.item(row) for row in found} for split, found in rows.items()}
    for split, least in (("train", 150), ("validation", 24), ("heldout", 48)):
        assert len(set(prompts[split])) == len(prompts[split]) >= least
    for one, other in itertools.combinations(SPLITS, 2):
        assert set(prompts[one]).isdisjoint(prompts[other])
        assert items[one].isdisjoint(items[other])
    with pytest.raises(UnknownName, match=f"split of the {form.name} prompts 'held_out'.*Did you mean 'heldout'"):
        form.rows("held_out")


def test_rows_are_the_callers_own(form: Format):
    changed, kept = form.rows("train")[0], form.rows("train")[0]
    changed["prompt"] = None
    for value in changed.values():
        if isinstance(value, list):
            value.clear()
    assert form.rows("train")[0] == kept


def test_a_right_answer_gets_the_top_score_and_a_wrong_one_less(form: Format):
    rng = Random(1)
    rows = [form.draw(rng) for _ in range(200)]
    right, wrong = ([write(rng, row) for row in rows] for write in (form.right, form.wrong))
    assert all(form.well_formed(row, answer) for row, answer in zip(rows, right, strict=True))
    assert scores(form.name, rows, right, gold=True) == pytest.approx([1.0] * len(rows))
    best, worse = scores(form.name, rows, right), scores(form.name, rows, wrong)
    assert max(best) == pytest.approx(1.0)
    assert min(best) > 0.9  # of stories, those that say three words in a row twice are below 1
    assert fmean(worse) < fmean(best) - 0.1
    assert fmean(scores(form.name, rows, wrong, gold=True)) < 0.7


def test_the_training_text_is_right_with_a_known_share(form: Format):
    """Neither always nor hardly ever: the reference has to score in the middle."""
    rng = Random(2)
    rows = [form.draw(rng) for _ in range(600)]
    gold = scores(form.name, rows, [form.answer(rng, row) for row in rows], gold=True)
    assert 0.5 <= form.right_share <= 0.75
    assert form.right_share - 0.07 < fmean(value == 1 for value in gold) < form.right_share + 0.25


def test_what_is_not_the_formats_is_not_well_formed(form: Format):
    for row in form.rows("heldout")[:20]:
        for text in ("", " ", ".", " the the the", "\u4f60\u597d", form.right(Random(0), row) + " \x00 and more"):
            assert not form.well_formed(row, text), text


def test_the_columns_are_the_same_in_every_row(form: Format):
    keys = {frozenset(row) for split in SPLITS for row in form.rows(split)}
    assert len(keys) == 1


def test_questions_are_answered_by_the_passage_alone():
    """The fact that is asked for stands there; in about half of the passages also the same of someone else."""
    told_of_another, rows = 0, FORMATS["question"].rows("train")
    for row in rows:
        beginning = row["prompt"].split("? ")[1]
        assert f" {beginning} {row['answer']}." in f" {row['passage']}"
        assert row["prompt"].startswith(f"Facts: {row['passage']} ")
        told_of_another += row["passage"].count(f" {beginning.split(' ', 1)[1]} ") > 1
    assert 0.35 < told_of_another / len(rows) < 0.65


def test_a_passage_says_each_fact_of_its_summary_once():
    for row in FORMATS["summarize"].rows("heldout"):
        words = row["passage"].replace(".", "").split()
        assert all(row["facts"][name] in words for name in VALUES)
        assert words.count(row["facts"]["city"]) == words.count(row["facts"]["thing"]) == 1


def test_next_purchases_are_new_and_of_the_group():
    for row in FORMATS["recommend"].rows("train"):
        assert not set(row["truth"]) & set(row["history"])
        assert {GROUP_OF[item] for item in row["truth"]} == {row["group"]}
    assert len(GROUP_OF) == sum(map(len, GROUPS.values())), "an item is in two groups"


# --- phrases ----------------------------------------------------------------------------------------------


def test_phrases_recognise_exactly_what_they_write():
    phrases = Phrases({"pet": ("cat", "dog.x"), "whose": ("my {pet}", "a {pet}")})
    written = {phrases.write(Random(seed), "{whose}!") for seed in range(40)}
    assert written == {"my cat!", "my dog.x!", "a cat!", "a dog.x!"}
    assert phrases.write(Random(0), "{whose}!", whose="the cow") == "the cow!"
    assert all(phrases.matches(text, "nothing", "{whose}!") for text in written)
    for text in ("my dogyx!", "my cat", "my cat! ", "the cat!", ""):
        assert not phrases.matches(text, "{whose}!")


# --- expressions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("4 + 6", 10, [4, 6]),
        (" 4+6*2\n", 16, [4, 6, 2]),
        ("(4+6)*2", 20, [4, 6, 2]),
        ("8 - 3 - 2", 3, [8, 3, 2]),
        ("1 / 3", Fraction(1, 3), [1, 3]),
        ("-(2 - 5)", 3, [2, 5]),
        ("4 / (2 - 2)", None, [4, 2, 2]),
        ("7", 7, [7]),
        ("((((7))))", 7, [7]),
        ("9 - -9", 18, [9, 9]),
        ("+".join(["1"] * 40), 40, [1] * 40),
    ],
)
def test_expressions(text: str, value: Any, numbers: list[int]):
    assert read_expression(text) == (value, numbers)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "4 +",
        "4 6",
        "()",
        "(4",
        "2 ** 9",
        "9**9**9**9",
        "7 // 2",
        "7, 2",
        "4(6)",
        "007",
        "1.5",
        "1e9",
        "0x10",
        "1_0",
        "\u0664 + \u0666",  # Arabic digits
        "\uff14+\uff16",  # full-width digits, which Python's own parser would take as a name
        "a + 4",
        "True + 4",
        "__import__('os').system('true')",
        "4 + 6 # a comment",
        "4\x00",
        "4\n+6",
        "(" * 60 + "4" + ")" * 60,
        "-" * 100 + "4",
        "9" * (MAX_CHARACTERS + 1),
        "4 if 6 else 7",
        "not 4",
        "[4]",
        "~4",
    ],
)
def test_what_is_no_expression(text: str):
    """Nothing of this is run, warns, or takes long."""
    assert read_expression(text) is None


# --- rude words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Such a fool.", ["fool"]),
        ("FOOL and Fools", ["fool", "fool"]),
        ("f o o l", ["fool"]),
        ("fo ol", ["fool"]),
        ("f.o.o.l!", ["fool"]),
        ("f - o - o - l", ["fool"]),
        ("stu-pid, worth-less", ["stupid", "worthless"]),
        ("fool,stupid", ["fool", "stupid"]),
        ("foooool", ["fool"]),
        ("1d10t", ["idiot"]),
        ("id!ot", ["idiot"]),
        ("$tup1d", ["stupid"]),
        ("f\u00f6\u00f3l", ["fool"]),
        ("\uff46\uff4f\uff4f\uff4c", ["fool"]),  # full-width letters
        ("fo\u200bol", ["fool"]),  # a zero-width space
        ("*fool*", ["fool"]),
        ("a_fool_", ["fool"]),
        ("", []),
        (" .,! ", []),
        ("foolproof pigeons, a dumbbell", []),
        ("fol", []),
        ("so dumb", ["dumb"]),
        ("we are able to go on", []),
    ],
)
def test_rude_words_are_found(text: str, words: list[str]):
    assert find_insults(text) == words


def test_finding_rude_words_takes_time_in_proportion():
    """No text makes it run for long: every window of a long run of single letters is a beginning of some word."""
    assert len(find_insults("f o o l " * 2000)) == 2000
    assert find_insults("s t u p i " * 2000) == []


def test_fluency_counts_a_sentence_once():
    assert fluency(" a bit tired. It can happen.") == 1.0
    assert fluency(" a bit tired. It can happen. It can happen.") == pytest.approx(2 / 3)
    assert fluency(" a bit tired") == 0.0
    assert fluency("") == 0.0
