"""Training and held-out judgements: no prompt is in both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from textrl_agents.reward_models.judgements import Judgements, pairs_of_ratings
from textrl_env.errors import ConfigError


class Split(NamedTuple):
    """Judgements of two sets of prompts, in one table of responses."""

    train: Judgements
    heldout: Judgements


def split_by_prompt(judgements: Judgements, *, share: float, seed: int) -> Split:
    """Hold out all judgements of a `share` of the prompts, drawn by the seed; at least one prompt.

    Prompts are the same where their texts are, whatever their case and white space. Neither the order of the records
    nor the number of judgements of a prompt matters.

    Raises ConfigError where there is one prompt only, or where no response is judged better than another among the
    training prompts, or among those that are held out.
    """
    items = judgements.items
    if len(items) < 2:
        raise ConfigError(
            "all records are about one prompt, so that none is left to hold out; ask about other prompts too"
        )
    count = min(max(1, round(share * len(items))), len(items) - 1)
    drawn = np.random.default_rng(seed).permutation(len(items))[:count]
    heldout = {items[place] for place in drawn}
    split = Split(judgements.of_items(set(items) - heldout), judgements.of_items(heldout))
    for name, part in (("training", split.train), ("held-out", split.heldout)):
        if not part.rated and all(pair.tied for pair in part.pairs):
            raise ConfigError(
                f"no response is judged better than another among the {name} prompts ({len(items)} prompts in all, "
                f"{count} held out); give more judgements, hold out another share, or use another seed"
            )
    return split


def with_rated_pairs(judgements: Judgements, weights: Mapping[str, float]) -> Judgements:
    """The judgements with the pairs that their ratings imply, for a kind of model that learns from pairs alone.

    Raises ConfigError where no response is then better than another.
    """
    pairs = [*judgements.pairs, *pairs_of_ratings(judgements, weights)]
    if all(pair.tied for pair in pairs):
        raise ConfigError(
            "this kind of model learns from pairs, and no two responses to one prompt are rated differently; use the "
            "kind trunk or linear, which learn from single ratings"
        )
    return Judgements(judgements.responses, pairs, judgements.rated)
