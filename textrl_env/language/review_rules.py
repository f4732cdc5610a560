"""The rules of the review grammar: which templates a symbol may become. Only data; `grammar.py` runs them.

A template is text with `{symbol}` in it; "3|text" makes it three times as likely as "text". A symbol is
another rule, or one of the word lists of a `words.Topic`. Sentences are written without their capital
letter and their full stop, and with "a" where the text will have "an".
"""

from __future__ import annotations

from types import MappingProxyType

STANCES = MappingProxyType(
    {  # attitude of a whole review -> probabilities of its sentences' kinds
        "for": {"positive": 0.62, "negative": 0.12, "mixed": 0.08, "neutral": 0.18},
        "against": {"positive": 0.12, "negative": 0.62, "mixed": 0.08, "neutral": 0.18},
        "undecided": {"positive": 0.28, "negative": 0.28, "mixed": 0.2, "neutral": 0.24},
    }
)
STANCE_SHARES = MappingProxyType({"for": 0.35, "against": 0.35, "undecided": 0.3})
CONTINUE = 0.68
"""Probability that one more sentence follows, after each sentence."""
MAX_SENTENCES = 12
CONNECTIVE = 0.25
"""Probability that a sentence after the first opens with a connective."""

OPENINGS = (  # of a review; the predicate follows
    "The {subject} was",
    "I thought the {subject} was",
    "My friend found the {subject}",
    "For me the {subject} felt",
    "The {subject} {place} was",
    "To my family the {subject} seemed",
    "This time the {subject} was",
)


def _predicates(praise: str, blame: str) -> tuple[str, ...]:
    """What follows "was", saying `praise`: in plain words, stronger, weaker, or by denying `blame`."""
    return (
        f"5|{{{praise}}}",
        f"5|{{up}} {{{praise}}}",
        f"3|{{{praise}}} and {{{praise}}}",
        f"2|{{down}} {{{praise}}}",
        f"not {{{blame}}}",
        f"not at all {{{blame}}}",
        f"never {{{blame}}}",
        f"{{up}} {{{praise}}} and never {{{blame}}}",
    )


RULES = MappingProxyType(
    {
        # the first sentence: opening + predicate
        "predicate_positive": _predicates("said_good", "said_bad"),
        "predicate_negative": _predicates("said_bad", "said_good"),
        "predicate_mixed": ("{said_good} but {down} {said_bad}", "{said_bad} but {down} {said_good}"),
        "predicate_neutral": (
            "just as expected",
            "much the same as before",
            "exactly as described",
            "new to me",
            "neither big nor small",
            "shorter than expected",
            "longer than expected",
        ),
        "said_good": ("{good}", "2|{fit}"),
        "said_bad": ("{bad}", "2|{unfit}"),
        # the sentences after it
        "positive": (
            "8|the {aspect} was {aspect_positive}{tail}",
            "3|I {liked} the {aspect}{tail}",
            "we would gladly come back",
            "I recommend it to {people}",
            "it was worth every {unit}",
            "it made me {happy}",
            "2|even the {aspect} was {good}",
            "2|what a {good} {aspect}",
            "the {aspect} did not disappoint {us}",
            "there was never a {bad} moment",
            "nothing about it felt {bad}",
            "2|the {aspect} impressed {us}",
        ),
        "negative": (
            "8|the {aspect} was {aspect_negative}{tail}",
            "3|I {disliked} the {aspect}{tail}",
            "I regret every {unit}",
            "I would not recommend it to {people}",
            "it was a waste of {money}",
            "it made me {sad}",
            "2|even the {aspect} was {bad}",
            "2|what a {bad} {aspect}",
            "the {aspect} disappointed {us}",
            "there was never a {good} moment",
            "nothing about it felt {good}",
            "2|I did not {like} the {aspect}",
        ),
        "mixed": (
            "2|the {aspect} was {good} but the {aspect} was {bad}",
            "2|the {aspect} was {bad}, yet the {aspect} was {good}",
            "I {liked} the {aspect} but not the {aspect}",
            "although the {aspect} was {bad}, the {aspect} was {good}",
        ),
        "neutral": (
            "my {relative} came with me",
            "I paid {number} coins for it",
            "it took about {number} {span}",
            "a friend told me about it",
            "I had heard a lot about the {aspect}",
            "2|the {aspect} was {predicate_neutral}",
            "it was my {ordinal} time",
            "we talked about the {aspect} on the way home",
        ),
        "aspect_positive": _predicates("good", "bad"),
        "aspect_negative": _predicates("bad", "good"),
        "connective": (
            "also",
            "still",
            "honestly",
            "in the end",
            "to be fair",
            "after all",
            "later on",
            "on top of that",
        ),
        # words
        "good": (
            *("3|good", "2|great", "2|lovely", "2|nice", "wonderful", "excellent", "superb"),
            *("pleasant", "perfect", "solid", "decent", "fine"),
        ),
        "bad": (
            *("3|bad", "2|poor", "2|terrible", "2|awful", "horrible", "weak", "dull"),
            *("disappointing", "dreadful", "mediocre", "annoying", "ugly"),
        ),
        "up": ("3|very", "2|really", "so", "truly", "extremely", "absolutely"),
        "down": ("slightly", "rather", "somewhat", "fairly"),
        "tail": ("8|", " from start to end", " for the price", " once again", " in every way", " as always"),
        "liked": ("2|liked", "loved", "enjoyed", "admired"),
        "disliked": ("2|disliked", "hated"),
        "like": ("like", "enjoy"),
        "people": ("everyone", "anyone", "my friends", "a child"),
        "unit": ("penny", "minute", "coin"),
        "money": ("money", "time", "a evening"),
        "happy": ("happy", "smile", "proud"),
        "sad": ("sad", "angry", "unhappy"),
        "us": ("me", "us"),
        "relative": ("sister", "brother", "mother", "father", "uncle"),
        "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        "span": ("minutes", "hours", "days"),
        "ordinal": ("first", "second", "third"),
        "end_polar": ("7|.", "!"),
        "end_plain": (".",),
    }
)
