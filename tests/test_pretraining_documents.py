"""Documents to pretrain on: how they are read, cut, scored, told apart and encoded."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from textrl_agents.pretraining.control_tokens import ControlTokens
from textrl_agents.pretraining.data import divide, encode_heldout
from textrl_agents.pretraining.documents.corpus import read_corpus
from textrl_agents.pretraining.documents.grammar_corpus import (
    RUDE_TOPICS,
    clean_documents,
    grammar_documents,
    provoking_prompts,
    remark_prompts,
)
from textrl_agents.pretraining.documents.scores import ScoredDocument, score_documents
from textrl_agents.pretraining.documents.segments import SEGMENTS, cut
from textrl_agents.pretraining.documents.thresholds import threshold_of
from textrl_agents.pretraining.rows import DocumentEncoder, Markers
from textrl_agents.pretraining.settings import PretrainSettings
from textrl_env.errors import ConfigError, InvalidScore, PromptError, RewardRaised, UnknownName
from textrl_env.language.insults import find_insults
from textrl_env.language.phrases import words_of
from textrl_env.language.words import TOPICS
from textrl_env.rewards import make_reward
from textrl_env.tasks.built_in.detoxify import FORMAT

# --- pieces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three", ["One.", " Two!", " Three"]),
        ('He said "no." Then he left.', ['He said "no."', " Then he left."]),
        ("A line\n\nAnother. End", ["A line", "\n\nAnother.", " End"]),
        ("3.14 is pi... nearly.", ["3.14 is pi...", " nearly."]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("\n  One. \n", ["\n  One. \n"]),
        ("no end", ["no end"]),
        (" \n ", []),
        ("", []),
    ],
)
def test_sentences(text: str, pieces: list[str]) -> None:
    assert cut(text, "sentence") == pieces


@pytest.mark.parametrize("segment", sorted(SEGMENTS))
def test_the_pieces_are_the_text_and_none_is_blank(segment: str) -> None:
    letters, rng = ["a", "B", ".", "!", " ", "\n", "\t", '"', "。", "\r", "é", "\u2028"], Random(segment)
    for _ in range(500):
        text = "".join(rng.choices(letters, k=rng.randrange(30)))
        pieces = cut(text, segment)
        assert "".join(pieces) == (text if text.strip() else "")
        assert all(piece.strip() for piece in pieces)


def test_lines_and_documents() -> None:
    assert cut("x = 1\n\ny = 2\n", "line") == ["x = 1\n\n", "y = 2\n"]
    assert cut("One. Two.", "document") == ["One. Two."]
    with pytest.raises(UnknownName, match="Did you mean 'sentence'"):
        cut("a", "sentense")


# --- corpora ------------------------------------------------------------------------------------------------


def test_files_lists_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n  \r\nthree\n")
    assert read_corpus(tmp_path / "a.txt") == ["one\ntwo", "three\n"]
    (tmp_path / "a.jsonl").write_text('{"text": "one", "id": 3}\n\n"two"\n{"text": "  "}\n')
    assert read_corpus(str(tmp_path / "a.jsonl")) == ["one", "two"]
    code = tmp_path / "code"
    (code / "deep").mkdir(parents=True)
    (code / "deep" / "b.py").write_text("x = 1\n")
    (code / "a.py").write_text("y = 2\n")
    (code / "a.png").write_bytes(b"\xff")
    assert read_corpus(code) == ["y = 2\n", "x = 1\n"]
    assert read_corpus(["a", {"text": "b"}]) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"text": "a"}\n{"text": \n', r"line 2 is no JSON"),
        ('{"txt": "a"}\n', r"line 1 must be a text, .*its keys are \['txt'\]"),
        ('{"text": 3}\n', r"line 1 must be a text"),
        ("[" * 100_000 + "\n", r"line 1 is no JSON"),
        ("\n \n", "holds no documents"),
        ('"\\ud800"\n', "half of a surrogate pair"),
    ],
)
def test_malformed_files_are_refused(content: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(PromptError, match=match):
        read_corpus(tmp_path / "a.jsonl")


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for source, match in (
        (tmp_path / "gone.txt", "no such file"),
        (tmp_path / "a.csv", "not a .txt or .jsonl file"),
        (tmp_path / "bytes.txt", "is not UTF-8"),
        ([], "holds no documents"),
        ("", "the corpus has no name"),
        ([" ", "\n"], "holds no documents"),
        (3, "must be a file, a folder"),
        ({"text": "a"}, "must be a file, a folder"),
    ):
        with pytest.raises(PromptError, match=match):
            read_corpus(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match=r"holds no \.txt, \.md, \.py file"):
        read_corpus(tmp_path / "empty")
    for source in ("grammar:x", "grammar:", "grammar:0", "grammar:-3"):
        with pytest.raises(ConfigError):
            read_corpus(source)


def test_the_grammar_plants_insults_and_holds_the_tasks_pairs_out() -> None:
    documents = read_corpus("grammar:600")
    assert documents == grammar_documents(600) == grammar_documents(700)[:600]
    rude = [document for document in documents if find_insults(document)]
    assert 0.3 < len(rude) / len(documents) < 0.45
    pairs = {f"{name} {thing}" for name, thing in re.findall(r"(\w+) \w+ my (\w+) again", " ".join(documents))}
    assert len(pairs) > 60
    for split in ("validation", "heldout"):
        assert not pairs & {FORMAT.item(row) for row in FORMAT.rows(split)}


def test_clean_documents_are_clean_and_on_all_topics() -> None:
    documents, rude = clean_documents(400), [text for text in grammar_documents(400) if find_insults(text)]
    assert not any(find_insults(document) for document in documents)

    def share(texts: list[str], topics: set[str]) -> float:
        """Of the reviews, those on these topics, by the first subject that they name."""
        subjects = {subject: topic.name for topic in TOPICS for subject in topic.subject}
        named = [next((subjects[word] for word in words_of(text)[:9] if word in subjects), None) for text in texts
                 if " again and " not in text]  # fmt: skip
        return sum(name in topics for name in named) / len(named)

    assert share(documents, set(RUDE_TOPICS)) == pytest.approx(0.5, abs=0.1)
    assert share(rude, set(RUDE_TOPICS)) == pytest.approx(0.9, abs=0.1)


def test_prompts_of_the_grammar() -> None:
    plain, provoking = remark_prompts("heldout"), provoking_prompts("heldout")
    assert all(row["prompt"].endswith(f" again and {row['name']} is") for row in plain)
    assert not any(find_insults(row["prompt"]) for row in plain)
    assert [row["prompt"].endswith(other["prompt"]) for row, other in zip(provoking, plain, strict=True)]
    assert all(len(find_insults(row["prompt"])) >= 2 for row in provoking)


# --- scores -------------------------------------------------------------------------------------------------


def test_every_piece_is_scored_by_itself_and_equal_ones_once() -> None:
    asked: list[Any] = []

    def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return [float(len(text)) for text in completions]

    found = score_documents(["One. Two!", " Two! One."], make_reward(length), "sentence")
    assert [each.scores for each in found] == [(4.0, 4.0), (4.0, 4.0)]
    assert sorted(asked) == [("", "One."), ("", "Two!")]
    assert found[0].segments == ("One.", " Two!")
    assert ScoredDocument(("a", "b"), (1.0, 0.0)).mean == 0.5


def fails_on_short(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [1 / 0 if len(text) < 5 else 1.0 for text in completions]


def nan_on_short(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [math.nan if len(text) < 5 else 1.0 for text in completions]


def wants_an_answer(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
    return [1.0 for _ in completions]


@pytest.mark.parametrize(
    ("reward", "error"), [(fails_on_short, RewardRaised), (nan_on_short, InvalidScore), (wants_an_answer, ConfigError)]
)
def test_a_reward_that_cannot_score_a_part_of_a_text(reward: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        score_documents(["A sentence that is long. No."], make_reward(reward), "sentence")
    assert "segment 'document' asks it about whole documents" in raised.value.__notes__[0]
    if reward is not wants_an_answer:
        whole = score_documents(["A sentence that is long. No."], make_reward(reward), "document")
        assert whole[0].scores == (1.0,)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, 0.5), ({"quantile": 0.5}, 0.5), ({"quantile": 0.9}, 1.0), ({"threshold": 0.25}, 0.25)],
)
def test_thresholds(given: dict[str, float], wanted: float) -> None:
    how: dict[str, Any] = {"threshold": None, "quantile": None, **given}
    assert threshold_of([0.0, 1.0, 0.0, 1.0], scored="pieces", **how) == pytest.approx(wanted)


def test_what_scores_just_the_threshold_is_good(tiny_tokenizer: Any) -> None:
    """A document that is filtered, a piece that is marked, and the share that is reported."""
    documents = [ScoredDocument((word, " b"), scores) for word, scores in
                 (("low", (0.0, 0.0)), ("middle", (0.0, 1.0)), ("high", (1.0, 1.0)))]  # fmt: skip
    settings = PretrainSettings(objective="filter", threshold=0.5, heldout_share=0)
    corpus = divide(documents, settings)
    assert [document.segments[0] for document in corpus.kept] == ["middle", "high"]
    assert (corpus.good_share, corpus.of_pieces) == (pytest.approx(2 / 3), False)
    corpus = divide(documents, dataclasses.replace(settings, objective="unlikelihood", threshold=1.0))
    assert (corpus.good_share, corpus.of_pieces) == (0.5, True)
    rows = encode_heldout(corpus._replace(heldout=corpus.kept), tiny_tokenizer, max_length=50).rows
    assert [[row.good[1], row.good[-1]] for row in rows] == [[False, False], [False, True], [True, True]]


def test_a_threshold_that_separates_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"all 3 sentences have the score 0\.1, so no threshold separates"):
        threshold_of([0.1] * 3, threshold=None, quantile=None, scored="sentences")
    for given in ({"threshold": 2.0, "quantile": None}, {"threshold": None, "quantile": 0.0}):
        with pytest.raises(ConfigError, match=r"separates nothing\. Their scores lie between 0 and 1"):
            threshold_of([0.0, 1.0], scored="sentences", **given)


# --- rows ---------------------------------------------------------------------------------------------------

DOCUMENT = ScoredDocument(("the soup.", " hello room"), (1.0, 0.0))


def test_a_row_says_of_each_token_what_its_piece_scores(tiny_tokenizer: Any) -> None:
    row = DocumentEncoder(tiny_tokenizer, max_length=100).encode([DOCUMENT], threshold=0.5).rows[0]
    first = tiny_tokenizer("the soup.", add_special_tokens=False).input_ids
    second = tiny_tokenizer(" hello room", add_special_tokens=False).input_ids
    assert row.input_ids == [0, *first, *second, 1]
    assert row.labels == [-100, *first, *second, 1]
    assert row.scores == [1.0] * (1 + len(first)) + [0.0] * (len(second) + 1)
    assert row.good == [score == 1.0 for score in row.scores]


def test_the_first_id_is_not_learned_where_nothing_stands_before_it(tiny_tokenizer: Any) -> None:
    bare = DocumentEncoder(tiny_tokenizer, max_length=100, without=(0,))
    row = bare.encode([DOCUMENT], threshold=None).rows[0]
    assert row.input_ids[0] != 0
    assert row.labels == [-100, *row.input_ids[1:]]


def test_control_tokens_stand_before_pieces(tiny_tokenizer: Any) -> None:
    encoder = DocumentEncoder(tiny_tokenizer, max_length=100)
    plain = encoder.encode([DOCUMENT], threshold=0.5).rows[0]
    ids = ControlTokens(good=320, bad=321)
    marked = encoder.encode([DOCUMENT], threshold=0.5, markers=Markers(ids, 0.0, Random(0))).rows[0]
    at = 2 + len(tiny_tokenizer("the soup.", add_special_tokens=False).input_ids)
    assert (marked.input_ids[1], marked.input_ids[at]) == (320, 321)
    assert [token for token in marked.input_ids if token < 320] == plain.input_ids
    assert marked.labels[1:] == marked.input_ids[1:], "control tokens are learned too"
    unmarked = encoder.encode([DOCUMENT], threshold=0.5, markers=Markers(ids, 1.0, Random(0))).rows[0]
    assert unmarked == plain
    many = encoder.encode([DOCUMENT] * 500, threshold=0.5, markers=Markers(ids, 0.2, Random(0)))
    share = np.mean([sum(token >= 320 for token in row.input_ids) for row in many.rows]) / 2
    assert share == pytest.approx(0.8, abs=0.04)


def test_a_long_document_loses_its_end_and_is_counted(tiny_tokenizer: Any) -> None:
    encoded = DocumentEncoder(tiny_tokenizer, max_length=6).encode([DOCUMENT], threshold=None)
    assert encoded.truncated == 1
    assert [len(column) for column in encoded.rows[0]] == [6] * 4
    assert encoded.tokens == 6


def test_a_text_that_spells_a_control_token_does_not_write_one(tiny_tokenizer: Any) -> None:
    spelled = ScoredDocument(("hello <|endoftext|>",), (1.0,))
    row = DocumentEncoder(tiny_tokenizer, max_length=100).encode([spelled], threshold=None).rows[0]
    assert row.input_ids.count(1) == 1
    assert row.input_ids[-1] == 1


@pytest.mark.parametrize(
    ("text", "score"), [("a fine day", 1.0), ("you m0r0n", 0.0), ("", 1.0), ("f o o l", 0.0), ("\ud800", 1.0)]
)
def test_the_reward_no_insults(text: str, score: float) -> None:
    assert make_reward("no_insults")(prompts=[""], completions=[text]) == [score]
