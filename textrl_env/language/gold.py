"""The gold score: a rule-based judge of sentiment that no model is trained on directly.

It ranks the preference pairs that the embedded reward model learns from, and it is reported beside that
model's score, so that a policy which fools the learned proxy is caught: degenerate text costs points here.

The formula. Let T = prompt + completion, cut into sentences at `. ! ?` (and their Unicode relatives) and at
line breaks; a sentence's words are its runs of letters and digits, in lower case.

    value(word)     = clip(POLARITY[word] * product of INTENSIFIERS in reach, -1, 1), then * -0.7 for each
                      negator in reach. In reach: the four words before it, back to the last comma, colon,
                      semicolon, clause break ("and", "but", ...) or other sentiment word
    value(sentence) = mean value of its sentiment words; 0 with none, or with fewer than 3 words (a fragment);
                      -1 with more than 4 sentiment words (stuffing)
    base            = mean value(sentence) over the sentences of T: more of the same gains nothing
    repetition      = (word trigrams of T that occurred before + words equal to the word before them
                      + 3 * sentences of T that occurred before) / words of T
    cut off         = 0.25 if the completion does not end in a sentence end (closing quotes aside)

    gold            = clip(base - repetition - cut off, -1, 1);   -1 if the completion has no word

Where a prompt is a chat (a list of messages, TRL's format), it is another speaker's: T is the completion.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.language.lexicon import CLAUSE_BREAKS, INTENSIFIERS, NEGATORS, POLARITY

REACH = 4
"""How many words back a negation or an intensifier is looked for."""
NEGATION = -0.7
CUT_OFF = 0.25
EMPTY = -1.0

_ENDS = ".!?…‽。！？｡؟।"
_MARKS = ",;:，；：、"
_SENTENCE = re.compile(rf"[^{_ENDS}\n\r\u2028\u2029]+")
_TOKEN = re.compile(rf"[^\W_]+(?:['’][^\W_]+)*|[{_MARKS}]")
_FINISHED = re.compile(rf"[{_ENDS}][\s\"'”’»)\]」』]*\Z")


def gold_sentiment(prompts: Sequence[Any], completions: Sequence[Any], **columns: object) -> list[float]:
    """How much the text praises its subject, in [-1, 1]: one score per row, by the formula above.

    `prompts` and `completions` are strings, or chats in TRL's format; further columns are ignored. Any string
    is accepted, the empty one included. Raises `ConfigError` where the two lists differ in length.
    """
    if len(prompts) != len(completions):
        raise ConfigError(
            f"gold_sentiment got {len(prompts)} prompts and {len(completions)} completions; "
            "it needs one completion for each prompt"
        )
    return [
        _score(prompt if isinstance(prompt, str) else "", _content(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _content(completion: Any) -> str:
    """The text of a completion: itself, or its messages' contents."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(message["content"]) for message in completion)


def _score(prompt: str, completion: str) -> float:
    if all(token in _MARKS for token in _TOKEN.findall(completion)):
        return EMPTY
    tokens = [_tokens(sentence) for sentence in _SENTENCE.findall(prompt + completion)]
    words = [[token for token in sentence if token not in _MARKS] for sentence in tokens]
    values = [sentence_value(sentence) for sentence, content in zip(tokens, words, strict=True) if content]
    base = sum(values) / len(values)
    cut_off = 0.0 if _FINISHED.search(completion) else CUT_OFF
    return max(-1.0, min(1.0, base - repetition([sentence for sentence in words if sentence]) - cut_off))


def _tokens(sentence: str) -> list[str]:
    """Words in lower case, and the marks that separate clauses."""
    return [token.lower().replace("’", "'") for token in _TOKEN.findall(sentence)]


def sentence_value(tokens: list[str]) -> float:
    """Mean value of the sentiment words of one sentence, given as lower-case words and clause marks."""
    values = [_word_value(tokens, i) for i, token in enumerate(tokens) if token in POLARITY]
    if len(values) > 4:
        return -1.0
    if not values or sum(token not in _MARKS for token in tokens) < 3:
        return 0.0
    return sum(values) / len(values)


def _word_value(tokens: list[str], position: int) -> float:
    strength, sign = 1.0, 1.0
    for token in reversed(tokens[max(0, position - REACH) : position]):
        if token in _MARKS or token in CLAUSE_BREAKS or token in POLARITY:
            break
        strength *= INTENSIFIERS.get(token, 1.0)
        if token in NEGATORS or token.endswith("n't"):
            sign *= NEGATION
    return max(-1.0, min(1.0, POLARITY[tokens[position]] * strength)) * sign


def repetition(sentences: list[list[str]]) -> float:
    """Share of the text that was said before, at least 0; each sentence is its words in lower case."""
    words = [word for sentence in sentences for word in sentence]
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    repeated = len(trigrams) - len(set(trigrams))
    repeated += sum(word == before for before, word in itertools.pairwise(words))
    repeated += 3 * (len(sentences) - len({tuple(sentence) for sentence in sentences}))
    return repeated / len(words) if words else 0.0
