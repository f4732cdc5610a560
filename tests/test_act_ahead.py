"""decoder="ahead": whole responses decoded at once and served token by token, as if each had been drawn in its step."""

from __future__ import annotations

import copy
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.models import CausalLMActorCritic, SamplingParams, load_model, pack
from textrl_env.models.decoding.engine import Request
from textrl_env.models.masked_actor_critic import MaskedActorCritic
from textrl_env.models.packing import pack_observations
from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.trajectory import Trajectory

PROMPTS = [[4, 9, 7], [7, 8, 100, 3, 55], [5]]
LENGTH = 32
MakePolicy = Callable[..., CausalLMActorCritic]


@pytest.fixture
def ahead(make_policy: MakePolicy) -> MakePolicy:
    def make(*arguments: Any, **settings: Any) -> CausalLMActorCritic:
        return make_policy(*arguments, **{"decoder": "ahead", "response_tokens": 8, **settings})

    return make


def observe(rows: Sequence[Sequence[int]], length: int = LENGTH) -> torch.Tensor:
    observations = torch.full((len(rows), length), -1)
    for row, ids in zip(observations, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return observations


def rolled(
    policy: CausalLMActorCritic, prompts: Sequence[Sequence[int]] = PROMPTS, steps: int = 8, **how: Any
) -> tuple[list[list[int]], torch.Tensor]:
    """The rows after so many steps, and the log-probabilities [N, steps]."""
    rows, log_probs = [list(prompt) for prompt in prompts], []
    for _ in range(steps):
        drawn = policy.step(observe(rows), **how)
        log_probs.append(drawn.log_probs)
        for row, token in zip(rows, drawn.tokens.tolist(), strict=True):
            row.append(token)
    return rows, torch.stack(log_probs, dim=1)


def evaluated(
    policy: CausalLMActorCritic, rows: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]] = PROMPTS
) -> torch.Tensor:
    """Log-probabilities [N, steps] of the rows' tokens behind their prompts, by one forward over each."""
    trajectories = [
        Trajectory(np.array(ids), np.arange(len(ids)) >= len(prompt)) for ids, prompt in zip(rows, prompts, strict=True)
    ]
    return policy.log_probs(pack(trajectories, policy.device)).reshape(len(rows), -1)


def changed(policy: CausalLMActorCritic) -> None:
    """One step of an optimizer, as training takes it."""
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    policy.evaluate(pack_observations(observe(PROMPTS), torch.tensor([9, 9, 9]))).log_probs.sum().backward()
    optimizer.step()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_tokens_are_those_of_the_plain_path(
    family: str, make_model: Any, ahead: MakePolicy, make_policy: MakePolicy
):
    rows, log_probs = rolled(ahead(make_model(family)), deterministic=True)
    plain, plain_log_probs = rolled(make_policy(make_model(family), cache=False), deterministic=True)
    assert rows == plain
    assert torch.equal(log_probs, plain_log_probs)


@pytest.mark.parametrize(
    ("family", "cut"), [("llama", True), ("llama", False), ("gpt2", True), ("mistral", False), ("qwen3", True)]
)
def test_log_probs_are_those_of_what_is_trained(
    family: str, cut: bool, make_model: Any, ahead: MakePolicy, asked: list[list[Request]]
):
    sampling = SamplingParams(temperature=0.7, top_k=40, top_p=0.9) if cut else SamplingParams()
    policy = ahead(make_model(family), sampling=sampling)
    rows, log_probs = rolled(policy)
    torch.testing.assert_close(log_probs, evaluated(policy, rows), atol=1e-5, rtol=0)
    assert log_probs.std() > 0.1
    assert sum(map(len, asked)) < 8, "it was not decoded ahead"


def test_bfloat16_products(ahead: MakePolicy):
    policy = ahead(precision="bfloat16")
    rows, log_probs = rolled(policy)
    assert (log_probs - evaluated(policy, rows)).abs().max() < 0.1
    assert policy.decoder == "ahead"


def test_an_adapter_is_in_what_is_decoded(
    make_model: Any, ahead: MakePolicy, make_policy: MakePolicy, tiny_tokenizer: Any
):
    plain, _ = rolled(make_policy(make_model("llama")), deterministic=True)
    adapted = load_model(make_model("llama"), tokenizer=tiny_tokenizer, device="cpu", lora={"r": 4}).model
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    policy = ahead(adapted)
    rows, log_probs = rolled(policy)
    torch.testing.assert_close(log_probs, evaluated(policy, rows), atol=1e-5, rtol=0)
    assert rolled(policy, deterministic=True)[0] == rolled(make_policy(adapted), deterministic=True)[0] != plain


def test_the_distribution_is_that_of_the_policy(ahead: MakePolicy):
    """Two tokens behind a prompt: frequencies of all pairs against exact probabilities, by chi-square."""
    model, tokenizer = letter_model()
    policy = ahead(model, tokenizer=tokenizer, max_length=4, response_tokens=2)
    size, count = policy.vocabulary.size, 1024
    rows = [[2] for _ in range(count)]
    for _ in range(2):
        for row, token in zip(rows, policy.step(observe(rows, 4)).tokens.tolist(), strict=True):
            row.append(token)
    first = policy.states(observe([[2]], 4)).logits.softmax(dim=-1)[0]
    second = policy.states(observe([[2, token] for token in range(size)], 4)).logits.softmax(dim=-1)
    expected = (first[:, None] * second).double().numpy() * count
    drawn = np.zeros((size, size))
    np.add.at(drawn, tuple(np.array(rows)[:, 1:].T), 1)
    assert not drawn[expected == 0].any()
    likely = expected > 5
    chi_square = ((drawn - expected)[likely] ** 2 / expected[likely]).sum()
    assert likely.sum() > 9
    assert chi_square < likely.sum() + 4 * np.sqrt(2 * likely.sum())


def test_the_same_seed_draws_the_same_and_no_random_number_is_lost(ahead: MakePolicy):
    runs = []
    for seed in (3, 3, 4):
        policy = ahead()
        torch.manual_seed(seed)
        runs.append((rolled(policy)[0], torch.rand(1).item()))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert runs[0][1] != runs[2][1], "the generator does not stand where the engine has put it"


def test_the_same_prompt_again_is_drawn_anew(ahead: MakePolicy):
    """Else a task with one prompt would hear one response for ever; and rows with one prompt are independent."""
    policy = ahead()
    first = [tuple(row) for row in rolled(policy, [PROMPTS[0]] * 8)[0]]
    again = [tuple(row) for row in rolled(policy, [PROMPTS[0]] * 8)[0]]
    assert len({*first, *again}) > 12
    assert len({int(policy.step(observe([PROMPTS[0]])).tokens) for _ in range(30)}) > 3


def test_an_observation_that_was_not_predicted_is_decoded_anew(ahead: MakePolicy, asked: list[list[Request]]):
    """A forced token, tokens of the environment between turns, a reset in mid-response, other rows beside it."""
    policy = ahead()
    rows, _ = rolled(policy, steps=2)
    asked.clear()
    rows[0][-1] = (rows[0][-1] + 1) % 90 + 4  # the environment took another token
    rows[1] += [11, 12, 13]  # and appended some
    rows[2] = [60, 61]  # and began anew
    starts = [list(row) for row in rows]
    rows, log_probs = rolled(policy, rows, steps=4)
    torch.testing.assert_close(log_probs, evaluated(policy, rows, starts), atol=1e-5, rtol=0)
    assert [request.ids for request in asked[0]] == starts
    asked.clear()
    fewer, log_probs = rolled(policy, rows[1:], steps=2)
    torch.testing.assert_close(log_probs, evaluated(policy, fewer, rows[1:]), atol=1e-5, rtol=0)
    assert not asked, "rows that moved up were predicted"


@pytest.mark.parametrize("how", ["optimizer", "load", "data"])
def test_nothing_is_served_that_earlier_weights_have_decoded(how: str, ahead: MakePolicy):
    policy = ahead()
    rows, _ = rolled(policy, steps=3)
    if how == "optimizer":
        changed(policy)
    elif how == "load":
        policy.load_state_dict({name: tensor * 1.5 for name, tensor in policy.state_dict().items()})
    else:
        with torch.no_grad():
            next(iter(policy.lm.body.parameters())).mul_(1.5)
    start = [list(row) for row in rows]
    rows, log_probs = rolled(policy, rows, steps=3)
    torch.testing.assert_close(log_probs, evaluated(policy, rows, start), atol=1e-5, rtol=0)


def test_nothing_is_served_that_another_temperature_has_decoded(ahead: MakePolicy):
    policy = ahead()
    start, _ = rolled(policy, steps=3)
    policy.sampling = SamplingParams(temperature=3.0)
    rows, log_probs = rolled(policy, start, steps=3)
    torch.testing.assert_close(log_probs, evaluated(policy, rows, start), atol=1e-5, rtol=0)


def test_greedy_and_sampled_steps_are_not_mixed(ahead: MakePolicy):
    policy = ahead()
    rows, _ = rolled(policy, steps=2)
    greedy, zeros = rolled(policy, rows, steps=2, deterministic=True)
    assert not zeros.any()
    assert greedy[0][-2] == int(policy.states(observe(rows)).logits[0].argmax())
    sampled, log_probs = rolled(policy, greedy, steps=2)
    torch.testing.assert_close(log_probs, evaluated(policy, sampled, greedy), atol=1e-5, rtol=0)


def test_no_more_is_decoded_than_can_be_served(ahead: MakePolicy, asked: list[list[Request]]):
    policy = ahead(response_tokens=8)
    policy.step(observe([[4] * 10, [4] * (LENGTH - 3)]))
    assert [request.limit for request in asked.pop()] == [8, 3]
    policy.clear_cache()
    policy.look_ahead(5, None)
    policy.step(observe([[4] * 10]))
    assert [request.limit for request in asked.pop()] == [5]
    policy.step(observe([[9] * (LENGTH - 1)]))  # one token alone: no engine
    policy.step(observe([[4] * LENGTH]))  # a row that is full, as one that is over shows
    assert not asked


def test_a_row_that_is_over_costs_no_response_a_step(ahead: MakePolicy, asked: list[list[Request]]):
    """A loop steps all its rows until the last is done; those that are done show the same ids again and again."""
    policy = ahead(response_tokens=2)
    rows, _ = rolled(policy, PROMPTS[:1], steps=2)
    drawn = []
    for _ in range(6):
        drawn.append(policy.step(observe(rows)))
    assert len(asked) == 1
    expected = policy.states(observe(rows)).logits.log_softmax(dim=-1)[0]
    for step in drawn:
        torch.testing.assert_close(step.log_probs[0], expected[step.tokens[0]], atol=1e-5, rtol=0)


def test_responses_to_prompts_that_come_are_decoded_together(ahead: MakePolicy, asked: list[list[Request]]):
    """Two rows whose responses end at different steps: the second one's next prompt comes with the first one's."""
    policy = ahead(response_tokens=6)
    upcoming = {0: np.array([30, 31]), 1: np.array([40])}
    policy.look_ahead(20, lambda rows: [upcoming[row] for row in rows])
    rows = [[4, 9, 7], [7, 8]]
    counts = [0, 0]
    served: Counter[int] = Counter()
    for step in range(20):
        drawn = policy.step(observe(rows))
        expected = policy.log_probs(pack_observations(observe(rows), drawn.tokens))
        torch.testing.assert_close(drawn.log_probs, expected, atol=1e-5, rtol=0)
        for row, token in enumerate(drawn.tokens.tolist()):
            rows[row].append(token)
            counts[row] += 1
            if counts[row] == 6 or token == 1 or (row == 0 and step == 2):
                rows[row], counts[row] = upcoming[row].tolist(), 0
                served[row] += 1
    assert [len(requests) for requests in asked][:2] == [2, 2]
    assert len(asked) < 1 + sum(served.values())
    assert all(request.limit <= 6 for requests in asked for request in requests)


def test_what_does_not_fit_is_decoded_step_by_step_with_one_warning(make_model: Any, make_policy: MakePolicy):
    policy = make_policy(make_model("gemma2"), decoder="ahead")
    with pytest.warns(UserWarning, match=r"cannot be decoded ahead .*attention"):
        rows, log_probs = rolled(policy, steps=1)
    assert policy.decoder == "slots"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows, log_probs = rolled(policy)
    assert policy.step(observe(rows)).values is not None
    torch.testing.assert_close(log_probs, evaluated(policy, rows), atol=1e-5, rtol=0)


def test_a_masked_policy_and_unknown_decoders_are_refused(
    make_policy: MakePolicy, make_model: Any, tiny_tokenizer: Any
):
    with pytest.raises(ConfigError, match="draws from two"):
        MaskedActorCritic(make_model(), tiny_tokenizer, max_length=8, decoder="ahead")
    with pytest.raises(UnknownName, match=r"decoder.*slots"):
        make_policy(decoder="ahed")
    with pytest.raises(ConfigError, match="response_tokens"):
        make_policy(decoder="ahead", response_tokens=0)


def test_an_engine_that_fails_says_so_and_leaves_no_thread(ahead: MakePolicy, monkeypatch: pytest.MonkeyPatch):
    policy = ahead()
    rolled(policy, steps=1)
    policy.clear_cache()
    threads, state = threading.active_count(), torch.get_rng_state()

    def broken(*arguments: Any, **keywords: Any) -> Any:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(policy.lm, "paged", broken)
    with pytest.raises(ModelError, match=r"out of memory, say.*slots"):
        policy.step(observe(PROMPTS))
    assert threading.active_count() == threads
    monkeypatch.undo()
    torch.set_rng_state(state)
    rows, log_probs = rolled(policy)
    torch.testing.assert_close(log_probs, evaluated(policy, rows), atol=1e-5, rtol=0)


def test_ctrl_c_leaves_no_thread_that_runs_the_model(ahead: MakePolicy, monkeypatch: pytest.MonkeyPatch):
    policy = ahead()
    rolled(policy, steps=1)
    policy.clear_cache()
    threads, forward, calls = threading.active_count(), policy.lm.paged, []

    def interrupted(*arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        time.sleep(0.02)
        return forward(*arguments, **keywords)

    monkeypatch.setattr(policy.lm, "paged", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            policy.step(observe(PROMPTS))
    finally:
        signal.signal(signal.SIGINT, before)
    assert threading.active_count() == threads
    assert len(calls) < 6, "it was not stopped, but ran to its end"
    assert policy.lm.config._attn_implementation == "sdpa"
    monkeypatch.undo()
    rows, log_probs = rolled(policy)
    torch.testing.assert_close(log_probs, evaluated(policy, rows), atol=1e-5, rtol=0)


def test_a_copy_decodes_with_its_own_weights(ahead: MakePolicy):
    policy = ahead()
    rolled(policy, steps=2)
    twin = copy.deepcopy(policy)
    changed(twin)
    for core in (twin, policy):
        rows, log_probs = rolled(core, steps=4)
        torch.testing.assert_close(log_probs, evaluated(core, rows), atol=1e-5, rtol=0)
    assert (evaluated(twin, rows) - evaluated(policy, rows)).abs().max() > 0.01


def test_values_come_after_the_fact(ahead: MakePolicy, make_policy: MakePolicy):
    policy, plain = ahead(), make_policy()
    with torch.no_grad():
        for core in (policy, plain):
            core.value_head.weight.fill_(0.1)
    assert policy.values_later
    assert policy.step(observe(PROMPTS)).values is None
    torch.testing.assert_close(policy.states(observe(PROMPTS)).values, plain.step(observe(PROMPTS)).values)
