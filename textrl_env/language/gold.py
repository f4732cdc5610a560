"""The gold score: a rule-based judge of sentiment that no model is trained on directly.

It ranks the preference pairs that the embedded reward model learns from. It is reported beside that model's score, so
that a policy which fools the learned proxy is caught: degenerate text costs points here.

The formula. Let T = prompt + completion, cut into sentences at `. ! ?` (and their Unicode relatives) and at line
breaks; a sentence's words are its runs of letters and digits, in lower case.

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
from types import MappingProxyType
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.text.chat_text import completion_text

# Every sentiment word that the grammar writes, and everyday ones beside them: text of other models is judged too.
_BY_VALUE = {
    1.0: "wonderful excellent superb perfect brilliant outstanding amazing fantastic magnificent masterpiece",
    0.9: "great loved love stunning delicious adore adored marvellous awesome",
    0.8: "lovely beautiful magical thrilling gripping delightful best happy joyful",
    0.7: "enjoyed enjoy admired admire recommend recommended moving charming funny impressed impressive tasty "
    "comfortable friendly lively thanks proud better",
    0.6: "good pleasant clever witty touching vivid cosy reliable worth gladly smile smiled fresh thoughtful "
    "handy warmly fun interesting kind",
    0.5: "nice liked like clean bright fast sturdy crisp tender quiet useful helpful pleased glad",
    0.4: "solid fine safe enjoyable",
    0.3: "decent okay",
    -0.4: "mediocre slow dry damp",
    -0.5: "weak disliked dislike flat silly shallow clumsy salty sad cold predictable lacking",
    -0.6: "bad poor boring bored dull bland regret regretted flimsy noisy sloppy confusing uncomfortable "
    "greasy unreliable tiresome ugly unhappy",
    -0.7: "disappointing disappointed disappoint disappoints broken stale burnt chaotic angry tedious "
    "annoying shabby pointless worse",
    -0.8: "waste wasted rude dirty lifeless pathetic miserable",
    -0.9: "hated hate useless unbearable",
    -1.0: "terrible awful horrible dreadful worst disgusting appalling atrocious",
}
POLARITY = MappingProxyType({word: value for value, words in _BY_VALUE.items() for word in words.split()})
"""Word (lower case) -> polarity in [-1, 1]. A word that is not here carries none."""

_NEGATORS = "not no never nothing nobody none neither nor hardly barely without cannot"
NEGATORS = frozenset(_NEGATORS.split())
"""Words that turn the sentiment of what follows. Words that end in "n't" count as well."""

_FACTORS = {
    1.3: "very really truly extremely absolutely so too incredibly completely",
    0.6: "slightly somewhat fairly rather bit little mostly quite",
}
INTENSIFIERS = MappingProxyType({word: factor for factor, words in _FACTORS.items() for word in words.split()})
"""Word -> factor on the sentiment of what follows it."""

CLAUSE_BREAKS = frozenset(["and", "but", "or", "yet", "though", "although", "because", "while", "however"])
"""Words across which neither a negation nor an intensifier reaches."""

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
        _score(prompt if isinstance(prompt, str) else "", completion_text(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


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
