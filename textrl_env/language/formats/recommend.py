"""`bought: tea, kettle, cup ->` -> ` honey, lemon, spoon`: what a customer buys next.

Customers belong to hidden groups. A customer buys what lies next to each other in the group's list, now and then
with something from elsewhere in between; next comes what follows in the list, which begins anew at its end.
"""

from __future__ import annotations

from random import Random
from typing import Any

from textrl_env.language.format import Format, Row

GROUPS = {
    "tea": ("tea", "kettle", "cup", "honey", "lemon", "spoon", "biscuit", "tray"),
    "garden": ("seed", "pot", "spade", "hose", "glove", "rake", "bulb", "fence"),
    "travel": ("map", "bag", "ticket", "towel", "compass", "tent", "rope", "torch"),
    "office": ("pen", "paper", "stapler", "folder", "desk", "lamp", "printer", "ink"),
    "music": ("drum", "guitar", "string", "amp", "cable", "stand", "tuner", "song"),
    "sport": ("ball", "shoe", "net", "bat", "whistle", "shirt", "bottle", "bench"),
}
GROUP_OF = {item: group for group, items in GROUPS.items() for item in items}
"""Item of the catalogue -> the group that buys it."""
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
    """What is bought next: histories of other lengths and orders lead to the same."""
    return ", ".join(row["truth"])


def _right(rng: Random, row: Row) -> str:
    return " " + ", ".join(row["truth"])


def _wrong(rng: Random, row: Row) -> str:
    """Others of the group, one from elsewhere, one that was bought already, or one twice."""
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
    """The items that an answer names, in order: what stands between its commas."""
    return [item.strip() for item in answer.split(",") if item.strip()]


RECOMMEND = Format("recommend", _draw, _item, _right, _wrong, _well_formed, right_share=0.7)
