"""The train batch of whole sequences: what the learner connector writes and the module reads.

One row a stretch, a run of consecutive tokens of one episode, and one column a token of it. The loss sees [B, W]
arrays of transitions as ever; each sequence is run once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from ray.rllib.core.columns import Columns

from textrl_env.models import PackedEpisodes

IDS = "ids"  # int64 [B, S], prompt and response, right-padded with 0
FIRST = "first"  # int64 [B], how many ids stand before the row's first action
STATES = "states"  # int64 [B], how many columns have a state: the tokens, and one to bootstrap from where there is one


class PackedBatch(NamedTuple):
    """A batch as sequences, and where its transitions are in the [B, W] columns."""

    packed: PackedEpisodes
    rows: torch.Tensor  # int64 [M]
    columns: torch.Tensor  # int64 [M]
    shape: tuple[int, int]

    @classmethod
    def of(cls, batch: dict[str, Any]) -> PackedBatch:
        place, actions = batch[Columns.OBS], batch[Columns.ACTIONS]
        first, states = place[FIRST], place[STATES]
        rows, columns = (torch.arange(actions.shape[1], device=states.device) < states[:, None]).nonzero(as_tuple=True)
        lengths = (first + states - 1).cpu().numpy()
        packed = PackedEpisodes(
            input_ids=place[IDS][:, : int(lengths.max())],
            lengths=lengths,
            rows=rows,
            columns=first[rows] - 1 + columns,
            actions=actions[rows, columns],
        )
        return cls(packed, rows, columns, (actions.shape[0], actions.shape[1]))

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """[M] back to [B, W], 0 where there is no transition; carries gradients."""
        return values.new_zeros(self.shape).index_put((self.rows, self.columns), values)
