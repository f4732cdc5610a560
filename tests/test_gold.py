"""The gold score against values computed by hand from the formula in its docstring."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import pytest

from textrl_env.errors import ConfigError
from textrl_env.language.gold import POLARITY, gold_sentiment
from textrl_env.language.grammar import continue_review, derive_review, review_prompts
from textrl_env.language.review_rules import RULES
from textrl_env.language.words import TOPICS

SOUP = "The soup was"
TABLE = [
    # prompt, completion, gold, how
    (SOUP, " good.", 0.6, "one sentiment word"),
    (SOUP, " very good.", 0.78, "0.6 * 1.3"),
    (SOUP, " rather weak.", -0.3, "-0.5 * 0.6"),
    (SOUP, " absolutely excellent!", 1.0, "1.0 * 1.3, clipped"),
    (SOUP, " not good.", -0.42, "0.6 * -0.7"),
    (SOUP, " not at all dull.", 0.42, "-0.6 * -0.7, two words between"),
    (SOUP, " never not good.", 0.294, "0.6 * 0.49"),
    (SOUP, " good and dull.", 0.0, "(0.6 - 0.6) / 2"),
    (SOUP, " not good, lovely.", 0.19, "(-0.42 + 0.8) / 2: the comma ends the negation"),
    (SOUP, " not good lovely.", 0.19, "as above: another sentiment word ends it too"),
    (SOUP, " not big but good.", 0.6, "'but' ends the negation"),
    ("It was", " not one of the many good ones.", 0.6, "five words back is out of reach"),
    ("I", " don't like it.", -0.35, "0.5 * -0.7"),
    ("I", " don’t like it.", -0.35, "the same with a typographic apostrophe"),
    (SOUP, " great. It took two hours.", 0.45, "(0.9 + 0) / 2"),
    (SOUP, " great", 0.65, "0.9 - 0.25: cut off"),
    (SOUP, ' "great!"', 0.9, "a closing quote does not hide the end"),
    ("", "Great!", 0.0, "a fragment carries nothing"),
    (SOUP, " great. The soup was great.", 0.275, "0.9 - (2 trigrams + 3 * 1 sentence) / 8 words"),
    (SOUP, " good good good good.", 0.6 - 4 / 7, "0.6 - (1 trigram + 3 adjacent) / 7 words"),
    (SOUP, " good lovely nice fine great.", -1.0, "stuffed: five sentiment words"),
    (SOUP, "", -1.0, "empty"),
    (SOUP, " ... , !", -1.0, "no word"),
    ("", "", -1.0, "nothing at all"),
    (SOUP, " the the the the the the", -1.0, "0 - (4 trigrams + 5 adjacent) / 9 - 0.25 = -1.25, clipped"),
    (SOUP, " GOOD.\nThis GooD thing", 0.35, "case and line breaks: (0.6 + 0.6) / 2 - 0.25"),
    ("", "日本語のレビュー🎉。", 0.0, "no lexicon, but a word and a sentence end"),
    (SOUP, " \ud800\x00 good.", 0.6, "a lone surrogate and a NUL"),
]


@pytest.mark.parametrize(("prompt", "completion", "expected", "how"), TABLE)
def test_hand_computed(prompt: str, completion: str, expected: float, how: str) -> None:
    assert gold_sentiment([prompt], [completion]) == pytest.approx([expected], abs=1e-12), how


def test_rows_are_scored_alone_and_columns_are_ignored() -> None:
    prompts, completions = [row[0] for row in TABLE], [row[1] for row in TABLE]
    together = gold_sentiment(prompts=prompts, completions=completions, completion_ids=[[1]] * len(TABLE))
    assert together == pytest.approx([row[2] for row in TABLE])


def test_a_chat_prompt_is_another_speakers() -> None:
    prompt = [{"role": "user", "content": "Was it a great, lovely soup?"}]
    assert gold_sentiment([prompt], [[{"role": "assistant", "content": "The soup was dull."}]]) == [-0.6]
    assert gold_sentiment([prompt], [[{"role": "assistant", "content": ""}]]) == [-1.0]


def test_length_alone_gains_nothing() -> None:
    short, long = gold_sentiment([SOUP] * 2, [" lovely.", " lovely. My room felt lovely! Our view is lovely."])
    assert [short, long] == pytest.approx([0.8, 0.8])


def test_bounded_on_any_unicode() -> None:
    rng = random.Random(0)
    texts = ["".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(40))) for _ in range(300)]
    words = [*POLARITY, "not", ".", "!", ","]
    texts += [" ".join(rng.choices(words, k=rng.randrange(40))) for _ in range(300)]
    assert all(-1.0 <= score <= 1.0 for score in gold_sentiment(texts[::-1], texts))


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 prompts and 1 completions"):
        gold_sentiment(["a", "b"], ["c"])


def test_the_grammars_sentiment_words_are_known_with_their_sign() -> None:
    def words(*lists: tuple[str, ...]) -> list[str]:
        return [option.partition("|")[2] or option for options in lists for option in options]

    praise = words(RULES["good"], RULES["liked"], RULES["like"], RULES["happy"], *(topic.fit for topic in TOPICS))
    blame = words(RULES["bad"], RULES["disliked"], RULES["sad"], *(topic.unfit for topic in TOPICS))
    assert {word for word in praise if POLARITY.get(word, 0) <= 0} == set()
    assert {word for word in blame if POLARITY.get(word, 0) >= 0} == set()


def test_the_grammar_is_neutral_on_average_and_leaves_headroom() -> None:
    rng = random.Random(1)
    prompts = review_prompts("train") * 6
    scores = gold_sentiment(prompts, [continue_review(rng, prompt) for prompt in prompts])
    assert abs(fmean(scores)) < 0.06
    assert stdev(scores) > 0.35
    assert max(scores) > 0.95


def test_natural_text_is_hardly_deducted_from() -> None:
    """A review scores 0.25 less without its last mark, and is otherwise what its sentences say."""
    rng = random.Random(2)
    for _ in range(200):
        review = derive_review(rng)[0]
        whole, cut = gold_sentiment(["", ""], [review, review[:-1]])
        assert cut == pytest.approx(max(-1.0, whole - 0.25))
