"""Whole sequences with the place of every transition: the same states as one prefix per transition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from suffixes import pack_suffixes

from textrl_env.models import CausalLM, PackedEpisodes, packing
from textrl_env.models.packing import length_groups, pack_observations, state_hidden
from textrl_env.models.shared_prefix import shared_length


def episodes(count: int = 9, seed: int = 0) -> tuple[list[np.ndarray], list[int]]:
    """Sequences of 3 to 24 ids, with the place of the first action of each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 25, size=count)
    return [rng.integers(320, size=n) for n in lengths], [int(rng.integers(1, n)) for n in lengths]


def prefix_states(lm: CausalLM, sequences: list[np.ndarray], firsts: list[int]) -> torch.Tensor:
    """The oracle: one prefix at a time, unpadded."""
    states = [
        lm.hidden(torch.from_numpy(ids[:place])[None])[0, -1]
        for ids, first in zip(sequences, firsts, strict=True)
        for place in range(first, len(ids))
    ]
    return torch.stack(states)


def test_places_and_actions_by_hand():
    packed = pack_suffixes([np.array([10, 11, 12, 13]), np.array([20, 21])], [2, 1], "cpu")
    assert packed.input_ids.tolist() == [[10, 11, 12], [20, 21, 0]]
    assert packed.lengths.tolist() == [3, 1]
    assert packed.rows.tolist() == [0, 0, 1]
    assert packed.columns.tolist() == [1, 2, 0]
    assert packed.actions.tolist() == [12, 13, 21]
    assert len(packed) == 3


def test_the_length_counts_transitions_and_is_no_number_of_fields():
    """Seven transitions in five fields: neither is mistaken for the other where fields are replaced."""
    packed = pack_suffixes([np.arange(5), np.arange(4)], [1, 1], "cpu")
    other = dataclasses.replace(packed, actions=packed.actions + 1)
    assert len(packed) == len(other) == 7
    assert other.actions.tolist() == [2, 3, 4, 5, 2, 3, 4]
    assert other.input_ids is packed.input_ids
    assert packed.actions.tolist() == [1, 2, 3, 4, 1, 2, 3]
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed.actions = other.actions  # type: ignore[misc]


def test_one_sequence_of_one_action():
    packed = pack_suffixes([np.array([7, 8])], [1], "cpu")
    assert (packed.input_ids.tolist(), packed.actions.tolist(), len(packed)) == ([[7]], [8], 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_one_prefix_per_transition(family: str, make_model: Callable[..., Any]):
    """CHECKS 5 and 29: padding contributes to no state, in every family."""
    lm = CausalLM(make_model(family))
    sequences, firsts = episodes()
    packed = pack_suffixes(sequences, firsts, "cpu")
    with torch.no_grad():
        got, wanted = state_hidden(lm, packed), prefix_states(lm, sequences, firsts)
    torch.testing.assert_close(
        lm.project(got).log_softmax(-1).detach(), lm.project(wanted).log_softmax(-1).detach(), atol=1e-5, rtol=0
    )
    flat = [token for ids, first in zip(sequences, firsts, strict=True) for token in ids[first:]]
    assert packed.actions.tolist() == flat


def test_what_stands_in_the_padding_does_not_matter(make_model: Callable[..., Any]):
    """CHECKS 29."""
    lm = CausalLM(make_model("llama"))
    sequences, firsts = episodes()
    packed = pack_suffixes(sequences, firsts, "cpu")
    beyond = torch.arange(packed.input_ids.shape[1]) >= torch.from_numpy(packed.lengths)[:, None]
    assert beyond.any()
    other = dataclasses.replace(packed, input_ids=packed.input_ids.masked_fill(beyond, 77))
    torch.testing.assert_close(state_hidden(lm, packed), state_hidden(lm, other), atol=1e-5, rtol=0)


@pytest.mark.parametrize("group_tokens", [1, 40])
@pytest.mark.parametrize("max_tokens", [None, 30, 1])
def test_groups_and_parts_keep_order_and_gradient(
    group_tokens: int, max_tokens: int | None, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """However the sequences are run together, transitions come back in their own order, with the same gradient."""
    lm = CausalLM(make_model("llama"))
    sequences, firsts = episodes()
    packed = pack_suffixes(sequences, firsts, "cpu")
    weight = torch.randn(len(packed), lm.hidden_size)

    def gradient() -> tuple[torch.Tensor, torch.Tensor]:
        states = state_hidden(lm, packed, max_tokens=max_tokens)
        lm.model.zero_grad()
        (states * weight).sum().backward()
        return states.detach(), lm.model.model.layers[0].self_attn.q_proj.weight.grad.clone()

    whole = gradient()
    monkeypatch.setattr(packing, "GROUP_TOKENS", group_tokens)
    assert len(list(length_groups(packed.lengths, torch.device("cpu")))) > 1
    torch.testing.assert_close(gradient(), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("group_tokens", [40, 2048])
def test_what_all_begin_with_is_run_once_with_the_same_gradient(
    group_tokens: int, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    lm = CausalLM(make_model("llama"))
    common = np.random.default_rng(2).integers(320, size=9)
    sequences, firsts = episodes()
    packed = pack_suffixes([np.concatenate([common, ids]) for ids in sequences], [9 + first for first in firsts], "cpu")
    weight = torch.randn(len(packed), lm.hidden_size)
    assert lm.shares_prefixes(packed.input_ids.shape[1])
    run, forward = [], lm.hidden
    monkeypatch.setattr(packing, "CPU_GROUP_TOKENS", group_tokens)
    monkeypatch.setattr(lm, "hidden", lambda ids, **how: run.append(ids.numel()) or forward(ids, **how))

    def gradient() -> tuple[torch.Tensor, ...]:
        states = state_hidden(lm, packed)
        lm.model.zero_grad()
        (states * weight).sum().backward()
        layer = lm.model.model.layers[0]
        return states.detach(), *(part.weight.grad.clone() for part in (layer.self_attn.k_proj, layer.mlp.up_proj))

    shared, tokens = gradient(), sum(run)
    run.clear()
    monkeypatch.setattr(packing, "shared_length", lambda *_: 0)
    torch.testing.assert_close(shared, gradient(), atol=1e-4, rtol=1e-4)
    assert sum(run) - tokens == 9 * len(sequences), "each row runs what is its own"


def test_what_rows_begin_with_is_found():
    ids = torch.tensor([[1, 2, 5, 6, 7, 8, 0], [1, 2, 5, 6, 7, 9, 4], [1, 2, 5, 6, 7, 8, 4]])
    assert shared_length(ids, 20, torch.tensor([5, 6])) == 5
    assert shared_length(ids, 20, torch.tensor([5, 4])) == 4, "a state is asked for there"
    assert shared_length(ids, 20, torch.tensor([3, 5])) == 0, "it is short"
    assert shared_length(ids, 200, torch.tensor([5, 6])) == 0, "it saves little"
    assert shared_length(ids[:1], 6, torch.tensor([5])) == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("seed", range(5))
def test_length_groups_cover_every_row_once_with_little_padding(
    seed: int, device: str, monkeypatch: pytest.MonkeyPatch
):
    """CHECKS 29: of a group's cells at most MAX_PADDING - 1 of its real tokens are padding, once it is large enough."""
    monkeypatch.setattr(packing, "GROUP_TOKENS", 60)
    lengths = np.random.default_rng(seed).integers(1, 100, size=50)
    groups = list(length_groups(lengths, torch.device(device)))
    assert sorted(np.concatenate(groups).tolist()) == list(range(50))
    for group in groups:
        inside = lengths[group]
        cells = len(group) * inside.max()
        assert cells <= packing.MAX_PADDING * inside.sum() or inside[:-1].sum() < 60
    assert len(groups) > 3


def test_one_prefix_per_transition_can_be_packed_too(make_model: Callable[..., Any]):
    """SB3's interface may hand over observations: the same numbers as whole sequences."""
    lm = CausalLM(make_model("llama"))
    sequences, firsts = episodes()
    packed = pack_suffixes(sequences, firsts, "cpu")
    observations = torch.full((len(packed), 30), -1)
    for m, (row, column) in enumerate(zip(packed.rows.tolist(), packed.columns.tolist(), strict=True)):
        observations[m, : column + 1] = torch.from_numpy(sequences[row][: column + 1])
    single = pack_observations(observations, packed.actions)
    assert isinstance(single, PackedEpisodes)
    assert single.actions.tolist() == packed.actions.tolist()
    torch.testing.assert_close(state_hidden(lm, single), state_hidden(lm, packed), atol=1e-5, rtol=0)
