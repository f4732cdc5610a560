"""Recommend what a customer buys next, best first: `bought: tea, kettle, cup ->` -> ` honey, lemon, spoon`.

Customers belong to hidden groups. A customer buys what lies next to each other in the group's list, now and then with
something from elsewhere in between. Next comes what follows in the list, which begins anew at its end. The reward takes
every item of the customer's group for relevant, as a model of clicks would. The gold score asks for the three items
that this customer did buy.

Held out are places in the groups' lists: three items in a row that come next after no history that is trained on.
There are 48 places, of which 12 are held out. The groups are the same, and the embedded model has seen all of their
lists in its own training text.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

from textrl_env.language.goods import GROUP_OF, GROUPS
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.task import Format, Row, Task

# --- prompts and answers ----------------------------------------------------------------------------------

NEXT = 3
"""How many items are asked for."""
STRAY = 0.3
"""Probability of an item from elsewhere in the history."""


def _draw(rng: Random) -> dict[str, Any]:
    group = rng.choice(tuple(GROUPS))
    items = GROUPS[group]
    start, length = rng.randrange(len(items)), rng.choice((2, 3, 3, 4))
    history = [items[(start + i) % len(items)] for i in range(length)]
    truth = [items[(start + length + i) % len(items)] for i in range(NEXT)]
    if rng.random() < 0.5:
        rng.shuffle(history)
    if length > 2 and rng.random() < STRAY:
        other = rng.choice([item for item, home in GROUP_OF.items() if home != group])
        history.insert(rng.randint(0, length), other)
    return {"prompt": f"bought: {', '.join(history)} ->", "history": history, "truth": truth, "group": group}


def _item(row: Row) -> str:
    """Name what is bought next: histories of other lengths and orders lead to the same."""
    return ", ".join(row["truth"])


def _right(rng: Random, row: Row) -> str:
    return " " + ", ".join(row["truth"])


def _wrong(rng: Random, row: Row) -> str:
    """Name other items of the group, one from elsewhere, one that was bought already, or one twice."""
    items = list(row["truth"])
    place = rng.randrange(NEXT)
    fault = rng.choice(("group", "elsewhere", "bought", "twice"))
    if fault == "group":
        items = rng.sample(GROUPS[row["group"]], NEXT)
    elif fault == "elsewhere":
        items[place] = rng.choice(tuple(GROUP_OF))
    elif fault == "bought":
        items[place] = rng.choice(row["history"])
    else:
        items[place] = items[place - 1]
    return " " + ", ".join(items)


def _well_formed(row: Row, answer: str) -> bool:
    items = listed_items(answer)
    return len(items) == len(set(items)) == NEXT and all(item in GROUP_OF for item in items)


def listed_items(answer: str) -> list[str]:
    """Split an answer into the items that it names, in order: what stands between its commas."""
    return [item.strip() for item in answer.split(",") if item.strip()]


FORMAT = Format("recommend", _draw, _item, _right, _wrong, _well_formed, right_share=0.7, share=0.045)


# --- scores -----------------------------------------------------------------------------------------------

_IDEAL = sum(1 / math.log2(rank + 1) for rank in range(1, NEXT + 1))


def relevance(
    prompts: list[Any], completions: list[Any], history: list[list[str]], group: list[str], **columns: Any
) -> list[float]:
    """Score nDCG at 3, times the share of items that are fit to be shown; in [0, 1].

    nDCG is DCG = sum over ranks 1 to 3 of rel / log2(rank + 1), divided by the DCG of three relevant items
    (Jarvelin and Kekalainen 2002, https://doi.org/10.1145/582415.582418). An item is fit if it is in the catalogue, was
    not bought and was not named before. It is relevant if it is fit and the customer's group buys it. The share is that
    of the items named, or of 3 items where fewer are named: a fourth item, good or bad, is one too many.
    """
    return [
        _ndcg(listed_items(completion_text(completion)), bought, home)
        for completion, bought, home in zip(completions, history, group, strict=True)
    ]


def _ndcg(items: list[str], bought: list[str], group: str) -> float:
    fit = [item in GROUP_OF and item not in bought and item not in items[:rank] for rank, item in enumerate(items)]
    gains = [1 / math.log2(rank + 2) for rank, item in enumerate(items[:NEXT]) if fit[rank] and GROUP_OF[item] == group]
    return sum(gains) / _IDEAL * sum(fit[:NEXT]) / max(NEXT, len(items))


def next_purchases(prompts: list[Any], completions: list[Any], truth: list[list[str]], **columns: Any) -> list[float]:
    """Score precision: the share of the items named (of 3, where fewer are) that were bought next; each counts once."""
    scores = []
    for completion, bought in zip(completions, truth, strict=True):
        items = listed_items(completion_text(completion))
        scores.append(len(set(items) & set(bought)) / max(NEXT, len(items)))
    return scores


TASK = Task(
    name="recommend",
    **FORMAT.prompt_arguments(),
    reward=FunctionReward(relevance, timeout=None),
    gold=FunctionReward(next_purchases, timeout=None),
    max_prompt_tokens=32,
    max_new_tokens=24,
    description="recommend three items that a customer buys next",
)
