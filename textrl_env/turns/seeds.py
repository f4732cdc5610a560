"""Which episodes of a turn environment are trained on, and which are held out: their seeds say so.

A turn environment has no prompts that could be split. It has seeds, and an episode follows from its seed. Of eight
seeds in a row two are held out, one is for validation and five are trained on. So every turn environment has the three
splits, whoever wrote it. The built-in ones draw what they hide by the seed's split too: no hidden state is in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, TypeVar

from textrl_env.text.prompt_splits import SPLITS, split_places
from textrl_env.user_values import check_names, check_whole

CYCLE = 8
PLACES = {"heldout": (0, 1), "validation": (2,), "train": (3, 4, 5, 6, 7)}
"""Split -> the remainders of its seeds, divided by `CYCLE`."""
SHARES = {"heldout": 4, "validation": 8}  # split -> n, for one nth of the different hidden states
LARGEST = 2**31
"""Seeds that are drawn are below this, which every generator takes."""

_State = TypeVar("_State")


def split_of(seed: int) -> str:
    """Name the split of a seed >= 0. Raises ConfigError for what is no such number."""
    check_whole("seed", seed, 0)
    return next(split for split, places in PLACES.items() if int(seed) % CYCLE in places)


def split_seed(split: str, number: int) -> int:
    """Return the `number`-th seed of a split, counted from 0. Raises UnknownName and ConfigError."""
    check_names("split", [split], SPLITS)
    check_whole("number", number, 0)
    rounds, place = divmod(int(number), len(PLACES[split]))
    return CYCLE * rounds + PLACES[split][place]


def drawn_seed() -> int:
    """Draw a training seed from the system's randomness, for a reset without one."""
    return split_seed("train", Random().randrange(LARGEST // 2))


def split_states(states: Iterable[_State], about: Callable[[_State], Any] = repr) -> dict[str, list[_State]]:
    """Give every hidden state to a split: split -> its states, in their order.

    about: what a state is about; states with equal values stay together. A quarter of the different values is held out,
    an eighth is for validation. Which ones a hash decides.
    """
    listed = list(states)
    places = split_places([about(state) for state in listed], SHARES)
    return {split: [listed[place] for place in places[split]] for split in SPLITS}
