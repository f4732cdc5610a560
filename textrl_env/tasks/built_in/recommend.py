"""Recommend what a customer buys next: three items, best first.

Customers belong to hidden groups. The reward takes every item of the customer's group for relevant, as a model of
clicks would; the gold score asks for the three that this customer did buy.

Held out are places in the groups' lists: three items in a row that are the next purchase of no history that is trained
on. There are 48 such places, of which 12 are held out. The groups are the same, and the embedded model has seen all of
their lists in its own training text.
"""

from __future__ import annotations

import math
from typing import Any

from textrl_env.language.formats.recommend import GROUP_OF, NEXT, RECOMMEND, listed_items
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.registry import Task

_IDEAL = sum(1 / math.log2(rank + 1) for rank in range(1, NEXT + 1))


def relevance(
    prompts: list, completions: list, history: list[list[str]], group: list[str], **columns: Any
) -> list[float]:
    """nDCG at 3 times the share of items that are fit to be shown; in [0, 1].

    DCG = sum over ranks 1 to 3 of rel / log2(rank + 1), over that of three relevant items
    (Jarvelin and Kekalainen 2002, https://doi.org/10.1145/582415.582418). An item is relevant that the group buys, and
    fit that is in the catalogue, was not bought and was not named before. What is not fit is not relevant. The share is
    of the items named, or of 3 where fewer are: a fourth item, good or bad, is one too many.
    """
    return [
        _ndcg(listed_items(completion_text(completion)), bought, home)
        for completion, bought, home in zip(completions, history, group, strict=True)
    ]


def _ndcg(items: list[str], bought: list[str], group: str) -> float:
    fit = [item in GROUP_OF and item not in bought and item not in items[:rank] for rank, item in enumerate(items)]
    gains = [1 / math.log2(rank + 2) for rank, item in enumerate(items[:NEXT]) if fit[rank] and GROUP_OF[item] == group]
    return sum(gains) / _IDEAL * sum(fit[:NEXT]) / max(NEXT, len(items))


def next_purchases(prompts: list, completions: list, truth: list[list[str]], **columns: Any) -> list[float]:
    """Precision: share of what is named, or of 3 where fewer are, that the customer bought next; each counts once."""
    scores = []
    for completion, bought in zip(completions, truth, strict=True):
        items = listed_items(completion_text(completion))
        scores.append(len(set(items) & set(bought)) / max(NEXT, len(items)))
    return scores


TASK = Task(
    name="recommend",
    prompts=lambda: RECOMMEND.rows("train"),
    validation_prompts=lambda: RECOMMEND.rows("validation"),
    heldout_prompts=lambda: RECOMMEND.rows("heldout"),
    item=RECOMMEND.item,
    reward=FunctionReward(relevance, timeout=None),
    gold=FunctionReward(next_purchases, timeout=None),
    kl_coef=0.05,
    max_prompt_tokens=32,
    max_new_tokens=24,
    description="recommend three items that a customer buys next",
)
