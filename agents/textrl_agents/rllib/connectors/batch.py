"""The train batch of whole sequences: what the learner connector writes and the module reads.

One row a stretch of an episode, and one column an action of it. The loss sees [B, W] arrays of transitions as ever;
each sequence is run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from textrl_env.models import PackedEpisodes
from textrl_env.trajectory import Trajectory

IDS = "ids"  # int64 [B, S], the sequences, right-padded with 0
ENDS = "ends"  # int64 [B, W], the place in the row's ids where the state of each column ends
STATES = "states"  # int64 [B], columns that have a state: the actions, and one to bootstrap from where there is one


class PackedBatch(NamedTuple):
    """A batch as sequences, and where its transitions are in the [B, W] columns."""

    packed: PackedEpisodes
    rows: torch.Tensor  # int64 [M]
    columns: torch.Tensor  # int64 [M]
    shape: tuple[int, int]

    @classmethod
    def of(cls, batch: dict[str, Any]) -> PackedBatch:
        """Read a batch whose OBS hold IDS, ENDS and STATES."""
        place, actions = batch[Columns.OBS], batch[Columns.ACTIONS]
        ends, states = place[ENDS], place[STATES]
        rows, columns = (torch.arange(actions.shape[1], device=states.device) < states[:, None]).nonzero(as_tuple=True)
        lengths = (ends.gather(1, states[:, None] - 1)[:, 0] + 1).cpu().numpy()
        packed = PackedEpisodes(
            input_ids=place[IDS][:, : int(lengths.max())],
            lengths=lengths,
            rows=rows,
            columns=ends[rows, columns],
            actions=actions[rows, columns],
        )
        return cls(packed, rows, columns, (actions.shape[0], actions.shape[1]))

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """[M] back to [B, W], 0 where there is no transition; carries gradients."""
        return values.new_zeros(self.shape).index_put((self.rows, self.columns), values)


def action_counts(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """int64 [B], the actions of each row."""
    return np.array([len(trajectory) for trajectory in trajectories], dtype=np.int64)


def column_mask(counts: np.ndarray, width: int | None = None) -> np.ndarray:
    """bool [B, W], True in the first `counts[b]` columns of row b."""
    return np.arange(int(counts.max()) if width is None else width) < counts[:, None]


def spread(flat: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[M] to [B, W], 0 beyond each row's end."""
    padded = np.zeros(mask.shape, dtype=flat.dtype)
    padded[mask] = flat
    return padded


def as_tensors(columns: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Columns, and dicts of columns, on the learner's device."""
    return {
        name: as_tensors(column, device) if isinstance(column, dict) else torch.as_tensor(column, device=device)
        for name, column in columns.items()
    }
