"""The probabilistic grammar that writes the embedded model's training text: reviews, dialogues and facts.

Everything is drawn from a `random.Random`, so the same generator state gives the same text in every process.
`derive_review` also returns how surprising the text is, -log p in nats: the mean of that is the loss that a
perfect model of the reviews would have.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from random import Random

from textrl_env.errors import ConfigError
from textrl_env.language.phrases import Phrases
from textrl_env.language.review_rules import (
    CONNECTIVE,
    CONTINUE,
    MAX_SENTENCES,
    OPENINGS,
    RULES,
    STANCE_SHARES,
    STANCES,
)
from textrl_env.language.words import ANIMALS, COUNTRIES, DAYS, NUMBERS, TOPICS, Topic
from textrl_env.text.prompt_splits import SPLITS
from textrl_env.user_values import check_names

_SYMBOL = re.compile(r"\{(\w+)\}")
_ONCE_A_REVIEW = frozenset({"aspect", "positive", "negative", "mixed", "neutral"})


@functools.cache
def _choices(symbol: str, topic: Topic) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """(templates, weights) that `symbol` may become in a review of `topic`."""
    options = RULES[symbol] if symbol in RULES else getattr(topic, symbol)
    pairs = [re.fullmatch(r"(?:(\d+)\|)?(.*)", option, re.DOTALL) for option in options]
    return tuple(p[2] for p in pairs if p), tuple(float(p[1] or 1) for p in pairs if p)


class _Derivation:
    """One text being written: the dice, what has been said already, and `-log p` of the choices so far."""

    def __init__(self, rng: Random, topic: Topic):
        self.rng, self.topic, self.nats = rng, topic, 0.0
        self._said: dict[str, set[str]] = {}

    def pick(self, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
        weights = weights or [1.0] * len(options)
        chosen = self.rng.choices(range(len(options)), weights)[0]
        self.nats -= math.log(weights[chosen] / sum(weights))
        return options[chosen]

    def chance(self, p: float) -> bool:
        return self.pick(("yes", "no"), (p, 1 - p)) == "yes"

    def expand(self, symbol: str) -> str:
        """`symbol` written out. Choices are not repeated within a sentence, some not within the review."""
        options, weights = _choices(symbol, self.topic)
        said = self._said.setdefault(symbol, set())
        left = [i for i, option in enumerate(options) if option not in said]
        if not left:
            said.clear()
            left = list(range(len(options)))
        template = self.pick([options[i] for i in left], [weights[i] for i in left])
        said.add(template)
        return self.fill(template)

    def fill(self, template: str) -> str:
        return _SYMBOL.sub(lambda match: self.expand(match[1]), template)

    def new_sentence(self) -> None:
        self._said = {symbol: said for symbol, said in self._said.items() if symbol in _ONCE_A_REVIEW}


def _with_articles(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _review_body(derivation: _Derivation) -> str:
    """The predicate that completes the opening, then further sentences. Starts with a space."""
    kinds = STANCES[derivation.rng.choices(tuple(STANCE_SHARES), tuple(STANCE_SHARES.values()))[0]]
    joint = dict(STANCE_SHARES)  # stance -> p(stance, kinds so far): the text does not show its stance
    text = ""
    for position in range(MAX_SENTENCES):
        kind = derivation.rng.choices(tuple(kinds), tuple(kinds.values()))[0]
        joint = {stance: p * STANCES[stance][kind] for stance, p in joint.items()}
        derivation.new_sentence()
        if position == 0:
            sentence = derivation.expand(f"predicate_{kind}") + derivation.expand("tail")
        else:
            lead = derivation.expand("connective") + ", " if derivation.chance(CONNECTIVE) else ""
            sentence = lead + derivation.expand(kind)
            sentence = sentence[0].upper() + sentence[1:]
        text += " " + sentence + derivation.expand("end_plain" if kind == "neutral" else "end_polar")
        if position + 1 == MAX_SENTENCES or not derivation.chance(CONTINUE):
            break
    derivation.nats -= math.log(sum(joint.values()))
    return _with_articles(text)


def derive_review(rng: Random) -> tuple[str, float]:
    """Write a short review of one to twelve sentences; for, against or undecided, and never quite of one mind.

    Returns its `-log p` too, in nats: the surprise of every choice, the stance summed out.
    """
    derivation = _Derivation(rng, TOPICS[0])
    topic_name = derivation.pick([topic.name for topic in TOPICS])
    derivation.topic = next(topic for topic in TOPICS if topic.name == topic_name)
    opening = derivation.fill(derivation.pick(OPENINGS))
    return opening + _review_body(derivation), derivation.nats


@functools.cache
def _openings() -> dict[str, tuple[Topic, str]]:
    """Every prompt -> (its topic, its split). One prompt a pair of subject and opening."""
    found: dict[str, tuple[Topic, str]] = {}
    subjects = [(topic, subject) for topic in TOPICS for subject in topic.subject]
    for s, (topic, subject) in enumerate(subjects):
        for o, opening in enumerate(OPENINGS):
            prompt = opening.format(subject=subject, place=topic.place[s % len(topic.place)])
            split = "heldout" if (s + o) % 4 == 3 else "validation" if (s + o) % 8 == 1 else "train"
            found[prompt] = (topic, split)
    return found


def review_prompts(*splits: str) -> list[str]:
    """Openings of reviews that stop before any sentiment: 210 to train on, 42 for validation, 84 held out.

    The splits share no pair of subject and opening. Those of several splits come in one order, which is always the
    same. Raises `UnknownName` for another split.
    """
    check_names("split of the review prompts", splits, SPLITS)
    return [prompt for prompt, (_, split) in _openings().items() if split in splits]


def continue_review(rng: Random, prompt: str) -> str:
    """What the grammar writes after one of its own `review_prompts` (the completion alone)."""
    if prompt not in _openings():
        raise ConfigError(f"the grammar has no review that opens with {prompt!r}; use one of review_prompts()")
    return _review_body(_Derivation(rng, _openings()[prompt][0]))


# --- facts and dialogues ----------------------------------------------------------------------------------


def generate_fact(rng: Random) -> str:
    """One or two statements about a small made-up world, animals, sums up to ten, or the days of the week."""
    return " ".join(answer for _, answer in _questions(rng, rng.choice((1, 1, 2))))


def _questions(rng: Random, count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of a question and its answer."""
    for _ in range(count):
        kind = rng.choice(("country", "animal", "sum", "day"))
        if kind == "country":
            country = rng.choice(tuple(COUNTRIES))
            capital, river, colour = COUNTRIES[country]
            yield rng.choice(
                (
                    (f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
                    (f"Which river flows through {country}?", f"The river {river} flows through {country}."),
                    (f"What colour is the flag of {country}?", f"The flag of {country} is {colour}."),
                )
            )
        elif kind == "animal":
            animal = rng.choice(tuple(ANIMALS))
            legs, action = ANIMALS[animal]
            yield rng.choice(
                (
                    (f"How many legs does a {animal} have?", f"A {animal} has {legs} legs."),
                    (f"What does a {animal} do?", f"A {animal} {action}."),
                )
            )
        elif kind == "sum":
            total = rng.randrange(2, 11)
            first = rng.randrange(1, total)
            left, right = f"{NUMBERS[first - 1]} plus {NUMBERS[total - first - 1]}", NUMBERS[total - 1]
            yield f"What is {left}?", f"{left.capitalize()} is {right}."
        else:
            day = rng.randrange(7)
            yield f"Which day comes after {DAYS[day]}?", f"{DAYS[(day + 1) % 7]} comes after {DAYS[day]}."


def generate_dialogue(rng: Random) -> list[dict[str, str]]:
    """One to three exchanges: messages `{"role": "user" | "assistant" | "system", "content": text}`."""
    messages = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": "You are a helpful assistant."})
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.choice(("greeting", "fact", "review", "review"))
        if kind == "greeting":
            question, answer = rng.choice(
                (
                    ("Hello!", "Hello! How can I help you?"),
                    ("Good morning!", "Good morning! What can I do for you?"),
                    ("Thank you!", "You are welcome!"),
                )
            )
        elif kind == "fact":
            question, answer = next(_questions(rng, 1))
        else:
            topic = rng.choice(TOPICS)
            subject, derivation = rng.choice(topic.subject), _Derivation(rng, topic)
            question = rng.choice(
                (f"What did you think of the {subject}?", f"How was the {subject}?", f"Tell me about the {subject}.")
            )
            answer = f"The {subject} was{_review_body(derivation)}"
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


# --- recognising the grammar's own sentences --------------------------------------------------------------


@functools.cache
def _recognisers(topic: Topic) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(first sentence of a review, any later one), both without the capital of a later sentence."""
    pattern = Phrases({symbol: _choices(symbol, topic)[0] for symbol in (*RULES, *Topic._fields[1:])}).pattern
    opening = "|".join(map(pattern, OPENINGS))
    polar = "|".join(pattern(f"{{{kind}}}") for kind in ("positive", "negative", "mixed"))
    said = "|".join(pattern(f"{{predicate_{kind}}}") for kind in ("positive", "negative", "mixed"))
    plain, tail = pattern("{predicate_neutral}"), pattern("{tail}")
    first = rf"(?:{opening}) (?:(?:{said})(?:{tail})[.!]|(?:{plain})(?:{tail})\.)"
    later = rf"(?:{pattern('{connective}')}, )?(?:(?:{polar})[.!]|{pattern('{neutral}')}\.)"
    return re.compile(first), re.compile(later)


def split_sentences(text: str) -> list[str]:
    """The text cut after every `.` and `!` that a space follows."""
    return [sentence for sentence in re.split(r"(?<=[.!]) ", text.strip()) if sentence]


def well_formed(review: str) -> list[bool]:
    """For each sentence of a review: could the grammar have written it, there and in this topic?

    The topic is the one that fits most sentences. The first sentence needs an opening, a later one a capital.
    """
    sentences = split_sentences(review)
    return max((_matches(sentences, topic) for topic in TOPICS), key=sum, default=[])


def _matches(sentences: list[str], topic: Topic) -> list[bool]:
    first, later = _recognisers(topic)
    verdicts = []
    for position, sentence in enumerate(sentences):
        plain = re.sub(r"\b([Aa])n (?=[aeiou])", r"\1 ", sentence)
        if _with_articles(plain) != sentence:
            verdicts.append(False)
        elif position == 0:
            verdicts.append(first.fullmatch(plain) is not None)
        else:
            lowered = plain[:1].lower() + plain[1:]
            verdicts.append(plain[:1].isupper() and any(later.fullmatch(variant) for variant in (plain, lowered)))
    return verdicts
