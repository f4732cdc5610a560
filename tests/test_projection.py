"""The vocabulary projection in chunks: the same numbers and gradients, a lower peak."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from textrl_env.models import SamplingParams
from textrl_env.models.projection import TokenStatistics, _Entropy, token_statistics
from textrl_env.models.sampling import entropy_of

M, H, V = 37, 16, 50


class Head:
    """A head that notes how many rows it was asked to project at a time."""

    def __init__(self) -> None:
        self.linear = torch.nn.Linear(H, V)
        self.rows: list[int] = []

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(hidden))
        return self.linear(hidden)


@pytest.fixture
def head() -> Head:
    return Head()


def run(head: Head, *, backward: str = "both", **settings: Any) -> tuple[TokenStatistics, list[torch.Tensor | None]]:
    """Statistics of fixed states, and the gradients of the states and the head."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(M, H, generator=generator, requires_grad=True)
    actions = torch.randint(V, (M,), generator=generator)
    weights = torch.randn(2, M, generator=generator)
    head.linear.zero_grad()
    head.rows.clear()
    sampling = settings.pop("sampling", SamplingParams())
    statistics = token_statistics(hidden, actions, head, sampling, settings.pop("banned", None), V, **settings)
    loss = (weights[0] * statistics.log_probs).sum()
    if statistics.entropy is not None:
        loss = loss + (0.0 if backward == "zero" else 1.0) * (weights[1] * statistics.entropy).sum()
    loss.backward()
    return statistics, [hidden.grad, head.linear.weight.grad.clone(), head.linear.bias.grad.clone()]


BANNED = torch.arange(V) % 11 == 0


@pytest.mark.parametrize("rows", [1, 10, 36, 37, 100])
@pytest.mark.parametrize(
    "settings",
    [{}, {"sampling": SamplingParams(temperature=0.6, top_k=45)}, {"banned": BANNED}],
    ids=["plain", "warped", "banned"],
)
def test_chunks_equal_the_whole(rows: int, settings: dict[str, Any], head: Head):
    """Values and gradients; no more than `rows` rows of logits exist at a time, in the backward pass too."""
    whole, whole_gradients = run(head, chunk_elements=None, **settings)
    assert head.rows == [M]
    chunked, gradients = run(head, chunk_elements=rows * V, **settings)
    assert max(head.rows) == min(rows, M)
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients, whole_gradients, atol=1e-5, rtol=1e-5)


def test_the_whole_is_a_plain_log_softmax(head: Head):
    statistics, _ = run(head)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(M, H, generator=generator)
    actions = torch.randint(V, (M,), generator=generator)
    log_probs = head.linear(hidden).log_softmax(-1)
    torch.testing.assert_close(statistics.log_probs, log_probs[torch.arange(M), actions])
    torch.testing.assert_close(statistics.entropy, entropy_of(log_probs))


@pytest.mark.parametrize("chunk_elements", [None, 10 * V])
def test_an_entropy_that_nothing_weighs_costs_nothing_and_changes_nothing(chunk_elements: int | None, head: Head):
    """A coefficient of 0 leaves the log-probabilities' gradients as they are, and the entropy's pass is spared."""
    settings = {"chunk_elements": chunk_elements}
    kept, both = run(head, **settings)
    zero, gradients = run(head, backward="zero", **settings)
    torch.testing.assert_close(zero, kept)
    without, alone = run(head, entropy=False, **settings)
    assert without.entropy is None
    torch.testing.assert_close(without.log_probs, kept.log_probs)
    torch.testing.assert_close(gradients, alone, atol=0, rtol=0)
    assert not torch.allclose(both[0], gradients[0], atol=1e-3), "the entropy has no gradient either way"
    nothing_saved = None
    assert _Entropy.backward(nothing_saved, torch.zeros(3)) == (None, None)


@pytest.mark.parametrize("banned", [None, BANNED])
def test_the_entropys_gradient_is_that_of_its_definition(banned: Any, head: Head):
    """Against autograd through -sum(p log p) over the ids that can be drawn; the second one as well."""
    hidden = torch.randn(5, H, dtype=torch.float64, requires_grad=True)
    kept = torch.ones(V, dtype=torch.bool) if banned is None else ~banned
    weights = torch.tensor([1.0, 0.0, -2.0, 0.5, 3.0])

    def plain() -> torch.Tensor:
        log_probs = head.linear.double()(hidden)[:, kept].float().log_softmax(-1)
        return (weights * -(log_probs.exp() * log_probs).sum(-1)).sum()

    def ours() -> torch.Tensor:
        project = head.linear.double()
        statistics = token_statistics(hidden, torch.zeros(5, dtype=torch.int64), project, SamplingParams(), banned, V)
        return (weights * statistics.entropy).sum()

    first, second = [], []
    for entropy in (plain, ours):
        (slope,) = torch.autograd.grad(entropy(), hidden, create_graph=True)
        first.append(slope.detach())
        second.append(torch.autograd.grad(slope.square().sum(), hidden)[0])
    torch.testing.assert_close(*first, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*second, atol=1e-5, rtol=1e-4)


def test_without_gradients_nothing_is_projected_twice(head: Head):
    with torch.no_grad():
        token_statistics(
            torch.randn(M, H), torch.zeros(M, dtype=torch.int64), head, SamplingParams(), None, V, chunk_elements=10 * V
        )
    assert head.rows == [10, 10, 10, 7]


def test_a_chunk_smaller_than_the_vocabulary_is_one_row(head: Head):
    run(head, chunk_elements=V - 1)
    assert max(head.rows) == 1
