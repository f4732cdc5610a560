"""RLlib's module around the policy core: the same numbers as the core and as the plain model, one prefix at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer as make_tokenizer

pytest.importorskip("ray.rllib")

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.utils.torch_utils import update_target_network

from textrl_agents.rllib.connectors.batch import ENDS, IDS, STATES, PackedBatch
from textrl_agents.rllib.module import CausalLMModule, TakenTokens, TargetCausalLMModule
from textrl_env import Task
from textrl_env.errors import ModelError
from textrl_env.models import CausalLMActorCritic

OBSERVATIONS = torch.tensor([[0, 9, 40, 7, -1, -1], [0, 12, -1, -1, -1, -1], [0, 5, 6, -1, -1, -1]])
ROWS = [([0, 9, 40, 7, 33], 2), ([0, 5, 6], 1), ([0, 12, 13, 14], 3)]  # ids, and how many stand before the first action


@pytest.fixture
def portable_task(tiny_task: Task, make_model: Callable[..., Any]) -> Task:
    """The tiny task, whose model every process makes for itself."""
    return dataclasses.replace(tiny_task, model=lambda: (make_model("llama"), make_tokenizer()))


def build(task: Task | str, kind: type = CausalLMModule, *, seed: int | None = 3, **settings: Any) -> Any:
    """A module whose value head says something; `seed` None leaves the weights as they are."""
    env = {"task": task, "device": "cpu", **settings.pop("env", {})}
    module = kind(model_config={"env": env, "actor_critic": settings})
    if seed is not None:
        torch.nn.init.normal_(module.actor_critic.value_head.weight, generator=torch.Generator().manual_seed(seed))
    return module


def train_batch(bootstrapped: tuple[bool, ...] = (False, False, False)) -> dict[str, Any]:
    """ROWS as the learner connector packs them; a row that is bootstrapped has one state more than tokens."""
    counts = torch.tensor([len(ids) - first for ids, first in ROWS])
    width = int(counts.max()) + any(bootstrapped)
    mask = torch.arange(width) < counts[:, None]
    actions = torch.zeros(mask.shape, dtype=torch.int64)
    actions[mask] = torch.tensor([token for ids, first in ROWS for token in ids[first:]])
    longest = max(len(ids) for ids, _ in ROWS)
    return {
        Columns.OBS: {
            IDS: torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in ROWS]),
            ENDS: torch.tensor([first for _, first in ROWS])[:, None] - 1 + torch.arange(width),
            STATES: counts + torch.tensor(bootstrapped),
        },
        Columns.ACTIONS: actions,
        Columns.LOSS_MASK: mask,
    }


@torch.no_grad()
def by_prefix(core: CausalLMActorCritic, prefix: list[int]) -> tuple[torch.Tensor, float]:
    """Log-probabilities [V] and the value after one prefix alone, through Llama's own body and head."""
    hidden = core.model.model(input_ids=torch.tensor([prefix])).last_hidden_state[0, -1]
    logits = core.model.lm_head(hidden).double()
    logits[core.banned if core.banned is not None else []] = -math.inf
    return logits.log_softmax(-1), float(core.value_head(hidden))


def test_exploration_is_the_cores_own_sampling(portable_task: Task, make_policy: Any, make_model: Any):
    """Tokens and log-probabilities of the same random numbers, and nothing of the vocabulary's size."""
    module, core = build(portable_task), make_policy(make_model("llama"))
    for seed in range(3):
        torch.manual_seed(seed)
        out = module.forward_exploration({Columns.OBS: OBSERVATIONS})
        torch.manual_seed(seed)
        tokens, log_probs, _ = core.step(OBSERVATIONS)
        assert out.keys() == {Columns.ACTIONS, Columns.ACTION_LOGP}
        assert torch.equal(out[Columns.ACTIONS], tokens)
        torch.testing.assert_close(out[Columns.ACTION_LOGP], log_probs, atol=1e-6, rtol=0)
        for row, token in enumerate(tokens.tolist()):
            expected, _ = by_prefix(core, [token for token in OBSERVATIONS[row].tolist() if token >= 0])
            assert float(out[Columns.ACTION_LOGP][row]) == pytest.approx(float(expected[token]), abs=1e-5)


def test_inference_is_greedy_and_certain(portable_task: Task):
    module = build(portable_task)
    out = module.forward_inference({Columns.OBS: OBSERVATIONS})
    assert out[Columns.ACTION_LOGP].tolist() == [0.0] * 3
    for row, token in enumerate(out[Columns.ACTIONS].tolist()):
        expected, _ = by_prefix(module.actor_critic, [token for token in OBSERVATIONS[row].tolist() if token >= 0])
        assert token == int(expected.argmax())


@pytest.mark.parametrize("bootstrapped", [(False, False, False), (True, False, True)])
def test_forward_train_is_one_prefix_per_transition(bootstrapped: tuple[bool, ...], portable_task: Task):
    """CHECKS 5 and 29: log-probabilities, entropies and values; 0 where there is no transition, and a value alone at a
    state that is only bootstrapped from."""
    module, batch = build(portable_task), train_batch(bootstrapped)
    out = module.forward_train(batch)
    taken, values = out[Columns.ACTION_DIST_INPUTS].detach(), out[Columns.EMBEDDINGS].detach()
    shape = batch[Columns.ACTIONS].shape
    assert (taken.shape, values.shape) == ((*shape, 2), shape)
    for row, (ids, first) in enumerate(ROWS):
        for column in range(shape[1]):
            place = first + column
            expected_log_prob = expected_entropy = expected_value = 0.0
            if place <= len(ids) - 1 + bootstrapped[row]:
                log_probs, expected_value = by_prefix(module.actor_critic, ids[:place])
            if place < len(ids):
                expected_log_prob = float(log_probs[ids[place]])
                expected_entropy = float(-(log_probs.exp() * log_probs).nansum())
            assert float(values[row, column]) == pytest.approx(expected_value, abs=1e-5), (row, column)
            assert taken[row, column].tolist() == pytest.approx([expected_log_prob, expected_entropy], abs=1e-4)
    assert values[batch[Columns.LOSS_MASK]].abs().min() > 1e-3, "the value head says nothing"


@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_values_with_and_without_embeddings(value_trunk: str, portable_task: Task):
    """What `forward_train` hands on is what a forward of its own would give, with the same gradient."""
    module, batch = build(portable_task, value_trunk=value_trunk), train_batch((True, True, False))
    embeddings = module.forward_train(batch)[Columns.EMBEDDINGS]
    both = [module.compute_values(batch, embeddings=embeddings), module.compute_values(batch)]
    torch.testing.assert_close(*both, atol=1e-6, rtol=0)
    gradients = []
    for values in both:
        module.zero_grad()
        values.square().sum().backward()
        gradients.append(module.actor_critic.value_head.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert gradients[0].abs().max() > 0


def test_the_packed_batch_and_back():
    """Which states are transitions, by hand, and that unpacking carries gradients."""
    place = PackedBatch.of(train_batch((True, False, False)))
    assert place.packed.rows.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert place.packed.columns.tolist() == [1, 2, 3, 4, 0, 1, 2]
    assert place.packed.actions.tolist() == [40, 7, 33, 0, 5, 6, 14]
    assert place.packed.lengths.tolist() == [5, 2, 3]
    values = torch.arange(1.0, 8.0, requires_grad=True)
    unpacked = place.unpack(values)
    assert unpacked.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]]
    (unpacked * torch.arange(12.0).view(3, 4)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 2, 3, 4, 5, 8]


def test_dropout_stays_off(tiny_task: Task, make_model: Callable[..., Any]):
    """CHECKS 26: RLlib calls `train()` before every update; a model of half dropout gives the same numbers twice, and
    those it was sampled with."""
    drop = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}

    def factory() -> tuple[Any, Any]:
        return make_model("gpt2", **drop).train(), make_tokenizer()

    module = build(dataclasses.replace(tiny_task, model=factory))
    core = module.actor_critic
    assert any(isinstance(layer, torch.nn.Dropout) and layer.p == 0.5 for layer in core.modules())
    numbers = []
    for mode in (True, False, True):
        module.train(mode)
        assert module.training is mode
        numbers.append(module.forward_train(train_batch())[Columns.ACTION_DIST_INPUTS].detach())
        assert module.training, "RLlib's own forward_train switches"
        assert not any(part.training for part in core.modules())
    torch.testing.assert_close(numbers[0], numbers[1], atol=0, rtol=0)
    torch.testing.assert_close(numbers[0], numbers[2], atol=0, rtol=0)
    torch.manual_seed(0)
    sampled = module.forward_exploration({Columns.OBS: OBSERVATIONS[:1]})
    token = int(sampled[Columns.ACTIONS])
    with torch.no_grad():
        logits = core.model.eval()(input_ids=OBSERVATIONS[:1, :4]).logits[0, -1]
        logits[core.banned if core.banned is not None else []] = -math.inf
    expected = float(logits.log_softmax(-1)[token])
    assert float(sampled[Columns.ACTION_LOGP]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("as_torch", [False, True])
def test_new_weights_are_what_is_sampled_from(as_torch: bool, portable_task: Task):
    """Set in mid-episode: log-probabilities are those of the new weights on the whole prefix, with no cached key of
    the old."""
    module, other = build(portable_task), build(portable_task)
    with torch.no_grad():
        for weight in other.actor_critic.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    earlier = OBSERVATIONS.clone()
    earlier[:, 1:] = -1
    module.forward_exploration({Columns.OBS: earlier})
    assert module.actor_critic._decoder._slots is not None, "nothing was cached"
    state = other.get_state(inference_only=True)
    module.set_state({name: torch.from_numpy(array) for name, array in state.items()} if as_torch else state)
    assert module.actor_critic._decoder._slots is None
    torch.manual_seed(0)
    out = module.forward_exploration({Columns.OBS: OBSERVATIONS})
    moved = []
    for row, token in enumerate(out[Columns.ACTIONS].tolist()):
        prefix = [token for token in OBSERVATIONS[row].tolist() if token >= 0]
        expected, _ = by_prefix(other.actor_critic, prefix)
        assert float(out[Columns.ACTION_LOGP][row]) == pytest.approx(float(expected[token]), abs=1e-5)
        moved.append(abs(float((by_prefix(build(portable_task).actor_critic, prefix)[0] - expected)[token])))
    assert max(moved) > 1e-2, "the weights are the same"


def test_a_state_of_another_model_is_refused(portable_task: Task):
    module = build(portable_task)
    state = module.get_state()
    del state["actor_critic.value_head.weight"]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    message = r"of another model: 1 do not fit, such as actor_critic\.value_head\.weight"
    with pytest.raises(ModelError, match=message):
        module.set_state({name: array + 1 for name, array in state.items()})
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_with_lora_env_runners_are_sent_the_adapter_alone(portable_task: Task):
    """And what they are sent is enough: another module acts as this one does."""
    pytest.importorskip("peft")
    module, other = (build(portable_task, env={"lora": {"r": 2}}) for _ in range(2))
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape))
    state = module.get_state(inference_only=True)
    heads = {"actor_critic.value_head.weight", "actor_critic.value_head.bias"}
    assert heads < state.keys()
    assert all("lora_" in name for name in state.keys() - heads)
    assert len(state) < len(module.get_state()), "the full state has the frozen weights too"
    assert sum(array.size for array in state.values()) < sum(w.numel() for w in module.parameters()) / 4

    def taken(of: Any) -> torch.Tensor:
        return of.forward_train(train_batch())[Columns.ACTION_DIST_INPUTS].detach()

    assert (taken(module) - taken(other)).abs().max() > 1e-3
    other.set_state(state)
    torch.testing.assert_close(taken(other), taken(module), atol=1e-6, rtol=0)


def test_the_target_network_stands_still(portable_task: Task):
    """It starts as the policy, gets no gradient, follows only by its own update, and stays on the learner."""
    module, batch = build(portable_task, TargetCausalLMModule), train_batch()
    module.make_target_networks()

    def policy() -> torch.Tensor:
        return module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]

    def target() -> torch.Tensor:
        return module.forward_target(batch)[TARGET_NETWORK_ACTION_DIST_INPUTS]

    before = target()
    torch.testing.assert_close(before, policy().detach(), atol=1e-6, rtol=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    policy()[..., 0].sum().backward()
    assert not target().requires_grad
    assert all(weight.grad is None and not weight.requires_grad for weight in module.target.parameters())
    optimizer.step()
    torch.testing.assert_close(target(), before, atol=0, rtol=0)
    assert (policy() - before).abs().max() > 1e-2
    ((main, followed),) = module.get_target_network_pairs()
    update_target_network(main_net=main, target_net=followed, tau=1.0)
    torch.testing.assert_close(target(), policy().detach(), atol=1e-6, rtol=0)
    assert not any(name.startswith("target") for name in module.get_state(inference_only=True))
    assert any(name.startswith("target") for name in module.get_state())


@pytest.mark.parametrize("with_target", [False, True])
def test_a_state_without_a_target_sets_it_too(with_target: bool, portable_task: Task):
    """A policy's weights alone start the target anew; a checkpoint brings its own."""
    module, other = build(portable_task, TargetCausalLMModule), build(portable_task, TargetCausalLMModule)
    for each in (module, other):
        each.make_target_networks()
    with torch.no_grad():
        for shift, core in ((0.5, other.actor_critic), (1.0, other.target)):
            for weight in core.parameters():
                weight.add_(shift)
    module.set_state(other.get_state(inference_only=not with_target))
    wanted = other.target if with_target else other.actor_critic
    for got, expected in zip(module.target.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(got, expected)


def test_the_distribution_of_taken_tokens_by_hand():
    """KL(old || new) at the tokens that the old one drew: r - 1 - log r with r = new / old."""
    old = TakenTokens.from_logits(torch.tensor([[math.log(0.5), 1.5], [math.log(0.2), 0.5]]))
    new = TakenTokens.from_logits(torch.tensor([[math.log(0.25), 1.0], [math.log(0.2), 0.25]]))
    actions = torch.tensor([7, 8])
    assert old.logp(actions).tolist() == pytest.approx([math.log(0.5), math.log(0.2)])
    assert old.entropy().tolist() == [1.5, 0.5]
    assert old.kl(new).tolist() == pytest.approx([0.5 - 1 + math.log(2), 0.0], abs=1e-6)
    assert new.kl(old).tolist() == pytest.approx([2 - 1 - math.log(2), 0.0], abs=1e-6)
    assert TakenTokens.required_input_dim(None) == 2
    with pytest.raises(NotImplementedError, match="the module samples by itself"):
        old.sample()


def test_the_kl_of_taken_tokens_is_unbiased():
    """CHECKS 24: its mean over the old distribution is the exact KL(old || new), on five tokens."""
    old, new = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]), torch.tensor([0.3, 0.1, 0.2, 0.2, 0.2])
    inputs = [torch.stack([each.log(), torch.zeros(5)], dim=-1) for each in (old, new)]
    estimates = TakenTokens.from_logits(inputs[0]).kl(TakenTokens.from_logits(inputs[1]))
    assert float((old * estimates).sum()) == pytest.approx(float((old * (old / new).log()).sum()), abs=1e-6)
    assert (estimates >= 0).all()
