"""Episodes as whole sequences, with the place of every transition in them.

One forward over a sequence gives the states of all its transitions, where one prefix per transition would run the
model again for every token. The algorithm on top sees a flat batch of M transitions and never knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from textrl_env.models.causal_lm import CausalLM
from textrl_env.models.shared_prefix import SharedPrefix, shared_length
from textrl_env.trajectory import Trajectory

# Sequences run together. Enough tokens to fill a device; sorted by length, so that little of it is padding. A CPU is
# full with fewer: a third less padding makes an update of responses that end by EOS 1.4 times as fast there.
GROUP_TOKENS = 2048
CPU_GROUP_TOKENS = 256
MAX_PADDING = 1.2
# Tokens in one forward without gradients, where memory alone limits the batch.
SCORING_TOKENS = 16384


@dataclass(frozen=True, eq=False, slots=True)
class PackedEpisodes:
    """B sequences and the M transitions in them; its length is M.

    The state of transition m is `input_ids[rows[m], : columns[m] + 1]`, and its action is `actions[m]`.
    """

    input_ids: torch.Tensor  # int64 [B, T], right-padded with 0
    lengths: np.ndarray  # int64 [B], tokens of each sequence that are states of some transition
    rows: torch.Tensor  # int64 [M]
    columns: torch.Tensor  # int64 [M]
    actions: torch.Tensor  # int64 [M]

    def __len__(self) -> int:
        return len(self.actions)

    def parts(self, max_tokens: int) -> Iterator[tuple[PackedEpisodes, torch.Tensor]]:
        """Whole sequences, of like length, in parts that take at most `max_tokens` tokens to run (one takes what it
        takes); and for each the places int64 [m] of its transitions among the M."""
        order = np.argsort(self.lengths, kind="stable")
        for group in _parts_of_similar(order, self.lengths, max_tokens):
            yield self._chosen(group)

    def _chosen(self, group: np.ndarray) -> tuple[PackedEpisodes, torch.Tensor]:
        """Sequences `group`, and the places of their transitions."""
        index_in_group = np.full(len(self.lengths), -1)
        index_in_group[group] = np.arange(len(group))
        local_rows = index_in_group[self.rows.cpu().numpy()]
        device = self.rows.device
        places = torch.from_numpy(np.flatnonzero(local_rows >= 0)).to(device)
        lengths = self.lengths[group]
        ids = self.input_ids[torch.from_numpy(group).to(device), : int(lengths.max())]
        rows = torch.from_numpy(local_rows[local_rows >= 0]).to(device)
        return PackedEpisodes(ids, lengths, rows, self.columns[places], self.actions[places]), places


def pack(trajectories: Sequence[Trajectory], device: torch.device | str) -> PackedEpisodes:
    """Pack the actions of trajectories (at least one each), one sequence a trajectory, in their order."""
    positions = [np.flatnonzero(trajectory.is_action) for trajectory in trajectories]
    # No action follows the last one, so it ends no state.
    lengths = np.array([place[-1] for place in positions], dtype=np.int64)
    padded = np.zeros((len(trajectories), lengths.max(initial=1) + 1), dtype=np.int64)
    for row, (trajectory, length) in enumerate(zip(trajectories, lengths.tolist(), strict=True)):
        padded[row, : length + 1] = trajectory.ids[: length + 1]
    rows = np.repeat(np.arange(len(positions)), [len(place) for place in positions])
    at = np.concatenate(positions) if positions else np.zeros(0, dtype=np.int64)
    place = torch.from_numpy(np.stack([rows, at - 1, padded[rows, at]])).to(device)
    return PackedEpisodes(torch.from_numpy(padded[:, :-1]).to(device), lengths, *place)


def pack_observations(observations: torch.Tensor, actions: torch.Tensor | None = None) -> PackedEpisodes:
    """One transition a row: observations int64 [M, L] right-padded with -1, actions [M]; 0 where none are given."""
    lengths = (observations >= 0).sum(dim=1)
    host_lengths = lengths.cpu().numpy()
    ids = observations[:, : max(int(host_lengths.max()), 1)].clamp(min=0).long()
    rows = torch.arange(len(ids), device=ids.device)
    actions = torch.zeros_like(rows) if actions is None else actions.long().flatten()
    return PackedEpisodes(ids, host_lengths, rows, lengths - 1, actions)


def length_groups(lengths: np.ndarray, device: torch.device) -> Iterator[np.ndarray]:
    """Rows in groups of similar length: enough tokens each, cut where padding would exceed `MAX_PADDING`."""
    enough = min(GROUP_TOKENS, CPU_GROUP_TOKENS) if device.type == "cpu" else GROUP_TOKENS
    order = np.argsort(lengths, kind="stable")
    start, real = 0, 0
    for stop, row in enumerate(order):
        longest = int(lengths[row])
        if real >= enough and (stop - start + 1) * longest > MAX_PADDING * (real + longest):
            yield order[start:stop]
            start, real = stop, 0
        real += longest
    yield order[start:]


def state_hidden(lm: CausalLM, packed: PackedEpisodes, *, max_tokens: int | None = None) -> torch.Tensor:
    """The model's states [M, H] at every transition, by one forward over each sequence.

    max_tokens: sequences run together hold at most this many tokens (for scoring without gradients, where memory is
    all that limits the batch); None runs each group whole.
    """
    groups = list(length_groups(packed.lengths, packed.input_ids.device))
    if max_tokens is not None:
        groups = [part for group in groups for part in _parts(group, packed.lengths, max_tokens)]
    pieces, places = [], []
    with lm.autocast():  # around all groups: each weight is converted once
        prefix = _shared_prefix(lm, packed)
        if len(groups) == 1:
            return lm.states(packed.input_ids, packed.rows, packed.columns, prefix)
        for group in groups:
            part, place = packed._chosen(group)
            pieces.append(lm.states(part.input_ids, part.rows, part.columns, prefix))
            places.append(place)
    # Transitions back in their own order: out[places] = pieces, written as a gather to keep the gradient simple.
    return torch.cat(pieces)[torch.cat(places).argsort()]


def _shared_prefix(lm: CausalLM, packed: PackedEpisodes) -> SharedPrefix | None:
    """What all sequences begin with, run once; None where they are run whole."""
    if len(packed.lengths) < 2 or not lm.shares_prefixes(packed.input_ids.shape[1]):
        return None
    length = shared_length(packed.input_ids, int(packed.lengths.sum()), packed.columns)
    return lm.prefix(packed.input_ids[0, :length]) if length else None


def packed_states(lm: CausalLM, packed: PackedEpisodes) -> torch.Tensor:
    """`state_hidden`, in parts where no gradients are needed and memory alone limits the batch."""
    return state_hidden(lm, packed, max_tokens=None if torch.is_grad_enabled() else SCORING_TOKENS)


def _parts_of_similar(order: np.ndarray, lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Rows, shortest first, in parts of at most `max_tokens` tokens with the padding."""
    start = 0
    for stop, row in enumerate(order):
        if stop > start and (stop - start + 1) * int(lengths[row]) > max_tokens:
            yield order[start:stop]
            start = stop
    yield order[start:]


def _parts(group: np.ndarray, lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    rows = max(1, max_tokens // max(1, int(lengths[group].max())))
    for start in range(0, len(group), rows):
        yield group[start : start + rows]
