"""Preference pairs for the embedded reward model: continuations of one prompt, ranked by the gold score.

They come from three sources: the grammar, the trained policy, and both of them spoilt on purpose (cut off,
looped, emptied, stuffed), so that the reward model has seen what a policy might do to please it.
"""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from textrl_env.embedded.training import sample_completions
from textrl_env.language.gold import POLARITY, gold_sentiment
from textrl_env.language.grammar import continue_review, split_sentences

Source = Literal["grammar", "policy", "spoilt"]


class Candidate(NamedTuple):
    """A continued prompt with its rank."""

    text: str  # prompt + completion
    gold: float
    source: Source


def candidates(
    policy: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rng: Random,
    *,
    prompts: list[str],
    per_source: int,
) -> list[list[Candidate]]:
    """For each of the `review_prompts`: `per_source` texts of the grammar, as many of the policy, half as many
    spoilt.
    """
    repeated = [prompt for prompt in prompts for _ in range(per_source)]
    sampled = sample_completions(policy, tokenizer, repeated)
    pools = []
    for i, prompt in enumerate(prompts):
        written = [continue_review(rng, prompt) for _ in range(per_source)]
        from_policy = sampled[i * per_source : (i + 1) * per_source]
        spoilt = [_spoil(rng, rng.choice(written + from_policy)) for _ in range(per_source // 2)]
        rows: list[tuple[str, Source]] = [
            *((text, "grammar") for text in written),
            *((text, "policy") for text in from_policy),
            *((text, "spoilt") for text in spoilt),
        ]
        gold = gold_sentiment([prompt] * len(rows), [text for text, _ in rows])
        pools.append(
            [Candidate(prompt + text, score, source) for (text, source), score in zip(rows, gold, strict=True)]
        )
    return pools


def _spoil(rng: Random, completion: str) -> str:
    """The completion with one fault that the gold score deducts for."""
    words, sentences = completion.split(), split_sentences(completion)
    fault = rng.choice(("cut", "cut", "word loop", "sentence loop", "stuffed", "empty"))
    if fault == "empty" or not words:
        return ""
    if fault == "cut":
        return " " + " ".join(words[: rng.randint(1, len(words))]).rstrip(".!,")
    if fault == "word loop":
        start = rng.randrange(len(words))
        phrase = words[start : start + rng.randint(1, 3)]
        end = rng.choice((".", ""))
        return " " + " ".join(words[:start] + phrase * rng.randint(3, 12)).rstrip(".!,") + end
    if fault == "sentence loop":
        kept = rng.randint(1, len(sentences))
        return " " + " ".join(sentences[:kept] + [sentences[kept - 1]] * rng.randint(1, 5))
    sign = rng.choice((-1, 1))
    pool = sorted(word for word, value in POLARITY.items() if value * sign > 0)
    return " " + " ".join(rng.choice(pool) for _ in range(rng.randint(5, 15))) + "."


def pair_accuracy(
    pools: list[list[Candidate]], scores: list[list[float]], *, margin: float, sources: set[Source]
) -> tuple[float, int]:
    """Share of pairs that the scores order as the gold score does, and how many pairs there were.

    All pairs of one prompt whose gold scores differ by more than `margin` (so ties never count), both texts
    of the given sources.
    """
    right = total = 0
    for pool, row in zip(pools, scores, strict=True):
        kept = [i for i, candidate in enumerate(pool) if candidate.source in sources]
        gold = torch.tensor([pool[i].gold for i in kept], dtype=torch.float64)
        score = torch.tensor([row[i] for i in kept], dtype=torch.float64)
        better = gold[:, None] - gold[None, :] > margin  # [n, n]: row better than column
        right += int((better & (score[:, None] > score[None, :])).sum())
        total += int(better.sum())
    return right / max(1, total), total
