"""Records become the pairs and ratings that they say, and nothing else; a prompt is on one side of the split."""

from __future__ import annotations

from typing import Any

import pytest

from textrl_agents.reward_models.heldout import split_by_prompt, with_rated_pairs
from textrl_agents.reward_models.judgements import Judgements, pairs_of_ratings, read_judgements
from textrl_env.errors import ConfigError
from textrl_env.preferences.records import Candidate, Comparison, Edit, Ranking, Rating


def compared(first: str, second: str, preferred: int | None, prompt: Any = "p", **more: Any) -> Comparison:
    return Comparison(prompt=prompt, candidates=(Candidate(first), Candidate(second)), preferred=preferred, **more)


def said(judgements: Judgements) -> list[tuple[str, str, bool, float]]:
    """Every pair as (better, worse, tied, margin)."""
    text = [response.text for response in judgements.responses]
    return [(text[pair.better], text[pair.worse], pair.tied, pair.margin) for pair in judgements.pairs]


def test_comparisons_keep_their_order_their_margin_and_their_ties():
    records = [
        compared("a", "b", 0, margin=2.0),
        compared("a", "c", 1),
        compared("b", "c", None),
        compared("b", "d", None, skipped=True),
    ]
    judgements = read_judgements(records)
    assert said(judgements) == [("a", "b", False, 2.0), ("c", "a", False, 0.0), ("b", "c", True, 0.0)]
    assert judgements.counts["comparisons"] == 4
    assert judgements.counts["skipped"] == 1
    assert said(read_judgements(records, ties=False)) == [("a", "b", False, 2.0), ("c", "a", False, 0.0)]


def test_a_ranking_is_all_its_pairs_and_equal_ranks_are_ties():
    ranking = Ranking(prompt="p", candidates=tuple(map(Candidate, "abcb")), ranks=(2, 1, 2, 3))
    assert said(read_judgements([ranking])) == [
        ("b", "a", False, 0.0),
        ("a", "c", True, 0.0),
        ("a", "b", False, 0.0),
        ("b", "c", False, 0.0),
        ("c", "b", False, 0.0),  # and the same text twice is no pair
    ]


def test_an_edit_beats_its_original_unless_nothing_was_changed():
    records = [
        Edit(prompt="p", candidates=(Candidate("bad"),), edited="good"),
        Edit(prompt="p", candidates=(Candidate("fine"),), edited="fine"),
    ]
    judgements = read_judgements(records)
    assert said(judgements) == [("good", "bad", False, 0.0)]
    assert judgements.counts["unchanged edits"] == 1
    assert [response.was_written for response in judgements.responses] == [True, False]


def test_votes_on_the_same_two_responses_become_their_majority():
    records = [
        compared("a", "b", 0, margin=1.0),
        compared("b", "a", 1, margin=3.0),  # shown the other way round: a again
        compared("a", "b", 1),
        compared("c", "d", 0),
        compared("c", "d", 1),
        compared("e", "f", None),
        compared("e", "f", 1),
    ]
    assert len(read_judgements(records).pairs) == 7
    assert said(read_judgements(records, votes="majority")) == [
        ("a", "b", False, 2.0),
        ("c", "d", True, 0.0),
        ("f", "e", False, 0.0),
    ]


def test_ratings_of_one_prompt_are_pairs_by_their_weighted_means():
    def rated(text: str, quality: int, safety: int, prompt: str = "p") -> Rating:
        ratings = {"quality": quality, "safety": safety}
        return Rating(prompt=prompt, candidates=(Candidate(text),), ratings=ratings)

    judgements = read_judgements(
        [rated("a", 5, 1), rated("a", 3, 1), rated("b", 4, 2), rated("c", 1, 5), rated("x", 5, 5, prompt="other")]
    )
    assert judgements.attributes == ["quality", "safety"]
    by_quality = with_rated_pairs(judgements, {"quality": 1.0, "safety": 0.0})
    assert said(by_quality) == [("a", "c", False, 0.0), ("b", "c", False, 0.0)]  # a and b are both 4 in the mean
    by_both = [judgements.responses[pair.better].text for pair in pairs_of_ratings(judgements, {"safety": 1.0})]
    assert by_both == ["b", "c", "c"]


def test_the_same_response_to_a_prompt_in_other_letters_is_another_response_of_the_same_prompt():
    judgements = read_judgements(
        [compared("a", "b", 0, prompt="Hello  there"), compared("a", "b", 0, prompt="hello there")]
    )
    assert len(judgements.responses) == 4
    assert len(judgements.items) == 1


def test_chats_are_prompts_too():
    chat = [{"role": "user", "content": "hi"}]
    judgements = read_judgements([compared("a", "b", 0, prompt=chat), compared("c", "b", 0, prompt=chat)])
    assert len(judgements.responses) == 3
    assert judgements.responses[0].prompt == chat


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "there are no records"),
        ([compared("a", "b", None, skipped=True)], "no record says that one response is better"),
        ([compared("a", "b", None)], "no record says that one response is better.*1 ties"),
        ([Edit(prompt="p", candidates=(Candidate("a"),), edited="a")], "no record says"),
        (["a text"], "expected a Comparison, Ranking, Rating or Edit, got str"),
    ],
)
def test_records_that_say_nothing_are_refused(records: list[Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read_judgements(records)


def test_no_prompt_is_on_both_sides_and_the_order_of_records_does_not_matter():
    records = [compared(f"a{n}", f"b{n}", 0, prompt=f"Prompt {n % 10}") for n in range(40)]
    records += [compared("c", "d", 1, prompt="prompt  3")]
    split = split_by_prompt(read_judgements(records), share=0.3, seed=1)
    assert len(split.heldout.items) == 3
    assert not set(split.heldout.items) & set(split.train.items)
    assert len(split.train.pairs) + len(split.heldout.pairs) == 41
    assert split_by_prompt(read_judgements(records[::-1]), share=0.3, seed=1).heldout.items == split.heldout.items
    others = {tuple(split_by_prompt(read_judgements(records), share=0.3, seed=s).heldout.items) for s in range(5)}
    assert len(others) > 1


def test_a_split_needs_two_prompts_and_a_decision_on_either_side():
    with pytest.raises(ConfigError, match="all records are about one prompt"):
        split_by_prompt(
            read_judgements([compared("a", "b", 0), compared("a", "c", 0, prompt=" P ")]), share=0.2, seed=0
        )
    records = [compared("a", "b", 0, prompt="one"), compared("a", "b", None, prompt="two")]
    for seed in range(4):  # whichever prompt is held out
        with pytest.raises(ConfigError, match="no response is judged better than another among the"):
            split_by_prompt(read_judgements(records), share=0.5, seed=seed)
