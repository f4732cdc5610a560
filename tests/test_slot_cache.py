"""The slot cache: cached states are the recomputed ones, whatever the rows do, and models it does not fit fall back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES

from textrl_env.models import CausalLM, SlotCache, SlotDecoder

MAX_LENGTH = 20
Forward = list[torch.Size]


def observe(rows: list[list[int]], length: int = MAX_LENGTH) -> torch.Tensor:
    """Rows of ids as an observation: int64 [N, length], right-padded with -1."""
    padded = torch.full((len(rows), length), -1)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return padded


def random_rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(320, size=length).tolist() for length in lengths]


def unpadded(lm: CausalLM, rows: list[list[int]]) -> torch.Tensor:
    """The oracle: each row alone through the model, without padding or cache."""
    with torch.no_grad():
        return torch.cat([lm.hidden(torch.tensor([ids]))[:, -1] for ids in rows])


def check(decoder: SlotDecoder, rows: list[list[int]], length: int = MAX_LENGTH) -> None:
    """Log-probabilities over the vocabulary after each row, to 1e-5."""
    lm = decoder.lm
    got, wanted = decoder.last_hidden(observe(rows, length)), unpadded(lm, rows)
    torch.testing.assert_close(
        lm.project(got).log_softmax(-1).detach(), lm.project(wanted).log_softmax(-1).detach(), atol=1e-5, rtol=0
    )


@pytest.fixture
def decoder(make_model: Callable[..., Any]) -> SlotDecoder:
    return SlotDecoder(CausalLM(make_model("llama")), MAX_LENGTH)


@pytest.fixture
def forwards(decoder: SlotDecoder, monkeypatch: pytest.MonkeyPatch) -> Forward:
    """Shapes of the ids of every forward from here on."""
    shapes: Forward = []
    original = decoder.lm.body.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        shapes.append(kwargs["input_ids"].shape)
        return original(*args, **kwargs)

    monkeypatch.setattr(decoder.lm.body, "forward", counting)
    return shapes


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_equals_recomputing(family: str, make_model: Callable[..., Any]):
    """CHECKS 5: rows of four lengths grow together; one ends and starts anew, one is edited, while the rest go on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoder = SlotDecoder(CausalLM(make_model(family)), MAX_LENGTH)
    assert decoder.cached, [str(each.message) for each in caught]
    rows = random_rows([1, 3, 7, 12])
    check(decoder, rows)
    for step in range(8):
        rows = [[*ids, (37 * step + row) % 320] for row, ids in enumerate(rows)]
        if step == 2:
            rows[2] = [5, 6]  # its episode ended: the next prompt, shorter
        if step == 4:
            rows[1][1] = 300  # an edited prefix
        if step == 5:
            rows[3] = random_rows([18], seed=9)[0]
        check(decoder, rows)
    check(decoder, rows)  # shown again, unchanged


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_either_side_changes_nothing(family: str, make_model: Callable[..., Any]):
    """CHECKS 5: left-padded (the plain model with mask and positions), right-padded and unpadded: same log-probs."""
    model = make_model(family)
    lm = CausalLM(model)
    rows = random_rows([2, 5, 9])
    wanted = lm.project(unpadded(lm, rows)).log_softmax(-1).detach()
    right = SlotDecoder(lm, MAX_LENGTH, cache=False).last_hidden(observe(rows))
    torch.testing.assert_close(lm.project(right).log_softmax(-1).detach(), wanted, atol=1e-5, rtol=0)
    ids = torch.ones(3, 9, dtype=torch.int64)
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        ids[row, 9 - len(tokens) :] = torch.tensor(tokens)
        mask[row, 9 - len(tokens) :] = 1
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        left = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(left, wanted, atol=1e-5, rtol=0)


def test_a_step_runs_one_token_a_row(decoder: SlotDecoder, forwards: Forward):
    """The cost of a token does not grow with its prefix: that is what the cache is for."""
    rows = random_rows([4, 9, 6])
    check(decoder, rows)
    forwards.clear()
    rows = [[*ids, 7] for ids in rows]
    decoder.last_hidden(observe(rows))
    assert forwards == [(1, 3)]
    rows = [[*ids, 8] for ids in rows]
    rows[1] = [3, 4, 5, 6]
    forwards.clear()
    decoder.last_hidden(observe(rows))
    assert forwards == [(1, 2 + 4)], "a row that starts anew is prefilled in the same forward, and pads no other row"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_all_rows_begin_with_is_run_once(family: str, make_model: Callable[..., Any]):
    """Where nothing is cached yet, and no row of it beyond what one token needs."""
    decoder = SlotDecoder(CausalLM(make_model(family)), MAX_LENGTH)
    assert decoder.lm.shares_prefixes(MAX_LENGTH)
    rows = [[*range(7), *own] for own in random_rows([1, 4, 2])]
    for _ in range(2):  # the second time with slots that hold other ids
        check(decoder, rows)
        for row, token in zip(rows, (3, 5, 8), strict=True):
            row.append(token)
        check(decoder, rows)
        decoder.lm.head.weight.data.add_(0)  # the weights may have changed
        torch.autograd.graph.increment_version(decoder.lm.head.weight)
        rows = [[*range(9, 17), 1], [*range(9, 17), 2, 3], [*range(9, 17)]]


def test_what_all_rows_begin_with_costs_one_row(decoder: SlotDecoder, forwards: Forward):
    assert decoder.lm.shares_prefixes(MAX_LENGTH)
    forwards.clear()
    decoder.last_hidden(observe([[*range(7), *own] for own in random_rows([1, 4, 2])]))
    assert [shape.numel() for shape in forwards] == [7, 7]


def test_rows_that_swap_or_shrink_are_noticed(decoder: SlotDecoder):
    rows = random_rows([6, 6, 8])
    check(decoder, rows)
    check(decoder, [rows[1], rows[0], rows[2]])
    check(decoder, [rows[1][:3], rows[0][:5], rows[2]])
    check(decoder, [[*rows[1][:3], 9], rows[0], [*rows[2], 1, 2, 3]])


def test_another_number_of_rows_and_another_width(decoder: SlotDecoder):
    """`predict` may come with any batch between rollout steps, and with observations longer than the decoder's own."""
    rows = random_rows([6, 3, 8])
    check(decoder, rows)
    check(decoder, rows[:1])
    check(decoder, rows)
    check(decoder, rows, length=12)
    longer = random_rows([MAX_LENGTH, MAX_LENGTH + 1, MAX_LENGTH + 2])
    check(decoder, longer, length=MAX_LENGTH + 4)
    check(decoder, [[*ids, 9] for ids in longer], length=MAX_LENGTH + 4)


class OnData(torch.optim.SGD):
    """Writes where autograd does not look, as optimizers of other packages do."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.sub_(group["lr"] * weight.grad)


OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "fused AdamW": partial(torch.optim.AdamW, fused=True),
    "an optimizer that writes to weight.data": OnData,
}


@pytest.mark.parametrize("change", ["in place", *OPTIMIZERS, "load_state_dict"])
def test_changed_weights_make_the_cache_stale(decoder: SlotDecoder, change: str):
    """The policy stays a pure function of the observation over an update in the middle of an episode."""
    rows = random_rows([6, 3])
    check(decoder, rows)
    model = decoder.lm.model
    if change == "in place":
        with torch.no_grad():
            model.model.layers[0].self_attn.k_proj.weight.mul_(1.5)
    elif change in OPTIMIZERS:
        optimizer = OPTIMIZERS[change](model.parameters(), lr=0.1)
        model(input_ids=torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
        optimizer.step()
    else:
        other = {name: tensor * 1.1 for name, tensor in model.state_dict().items()}
        model.load_state_dict(other)
    check(decoder, [[*ids, 4] for ids in rows])


def test_moved_weights_make_the_cache_stale(decoder: SlotDecoder):
    rows = random_rows([6, 3])
    check(decoder, rows)
    decoder.lm.model.double()
    decoder.lm.model.float()
    check(decoder, [[*ids, 4] for ids in rows])
    decoder.clear()
    check(decoder, [[*ids, 4, 5] for ids in rows])


def test_a_copy_has_slots_of_its_own(decoder: SlotDecoder):
    rows = random_rows([6, 3])
    check(decoder, rows)
    other = copy.deepcopy(decoder)
    check(other, [[*ids, 4] for ids in rows])
    check(decoder, [[*ids, 5] for ids in rows])
    check(other, [[*ids, 4, 6] for ids in rows])


def test_slots_take_the_memory_they_say(decoder: SlotDecoder):
    decoder.last_hidden(observe(random_rows([4, 2, 6])))
    slots = decoder._slots
    assert isinstance(slots, SlotCache)
    assert (slots.num_rows, slots.max_length, len(slots.layers)) == (3, MAX_LENGTH, 2)
    for layer in slots.layers:
        assert layer.keys.shape == layer.values.shape == (3, 2, MAX_LENGTH, 8)


def fallback(model: Any, reason: str, max_length: int = MAX_LENGTH) -> SlotDecoder:
    """A decoder that cannot cache: one warning at its start that says why, and none after."""
    with pytest.warns(UserWarning, match=reason) as caught:
        decoder = SlotDecoder(CausalLM(model), max_length)
    assert len(caught) == 1
    assert "correct but slower" in str(caught[0].message)
    assert not decoder.cached
    rows = random_rows([3, 6, 1])
    for token in range(4):
        check(decoder, rows)
        rows = [[*ids, token] for ids in rows]
    return decoder


def test_a_sliding_window_shorter_than_the_episode_falls_back(make_model: Callable[..., Any]):
    fallback(make_model("mistral", sliding_window=6), "sliding window of 6 is shorter than the 20 tokens")


def test_a_state_space_model_falls_back(make_model: Callable[..., Any]):
    config = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fast path.*")
        fallback(make_model("mamba", **config), "MambaForCausalLM cannot use the slot cache")


def test_a_sliding_window_that_is_long_enough_is_cached(make_model: Callable[..., Any]):
    decoder = SlotDecoder(CausalLM(make_model("mistral", sliding_window=MAX_LENGTH)), MAX_LENGTH)
    assert decoder.cached
    check(decoder, random_rows([MAX_LENGTH - 1, 4]))
    check(decoder, [[*ids, 7] for ids in random_rows([MAX_LENGTH - 1, 4])])


def test_without_a_cache_on_request_there_is_no_warning(make_model: Callable[..., Any]):
    decoder = SlotDecoder(CausalLM(make_model("llama")), MAX_LENGTH, cache=False)
    assert not decoder.cached
    check(decoder, random_rows([4, 11, 1]))
