"""The parity checks on a GPU: cached, packed and deferred numbers there, against a CPU's. Skipped visibly elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from suffixes import pack_suffixes

from textrl_agents.sb3 import make_agent
from textrl_env import Task, TextGenVectorEnv, TokenAction
from textrl_env.models import CausalLM, CausalLMActorCritic, SamplingParams, SlotDecoder
from textrl_env.models.sampling import sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTH = 20
# fp32 sums run in another order there, and TF32 is off by default; bf16 keeps 8 bits of a log-prob of some nats.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25}


def observe(rows: list[list[int]]) -> torch.Tensor:
    padded = torch.full((len(rows), LENGTH), -1)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return padded


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_equals_recomputing(family: str, dtype: str, make_model: Callable[..., Any]):
    """CHECKS 5: rows of mixed lengths, one of them refilled, against each row alone on the same device."""
    lm = CausalLM(make_model(family).to("cuda", getattr(torch, dtype)))
    decoder = SlotDecoder(lm, LENGTH)
    assert decoder.cached
    rows = [[4], [9, 30, 7], list(range(2, 12))]
    for step in range(6):
        got = lm.project(decoder.last_hidden(observe(rows).cuda())).log_softmax(-1)
        for row, ids in enumerate(rows):
            wanted = lm.project(lm.hidden(torch.tensor([ids], device="cuda"))[:, -1]).log_softmax(-1)
            torch.testing.assert_close(got[row : row + 1], wanted, atol=TOLERANCE[dtype], rtol=0)
        rows = [[*ids, 17 + step] for ids in rows]
        if step == 2:
            rows[2] = [5, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_equal_the_cpus(family: str, make_model: Callable[..., Any], tiny_tokenizer: Any):
    """CHECKS 4 and 26: acting on the GPU, evaluated there and on a CPU."""
    policies = {
        device: CausalLMActorCritic(make_model(family).to(device), tiny_tokenizer, max_length=LENGTH)
        for device in ("cpu", "cuda")
    }
    observations = observe([[4, 9], [7, 8, 100, 3]]).cuda()
    noted = []
    for step in range(6):
        action = policies["cuda"].step(observations)
        assert action.tokens.device.type == action.log_probs.device.type == action.values.device.type == "cuda"
        observations[torch.arange(2), torch.tensor([2, 4]) + step] = action.tokens
        noted.append(action.log_probs)
    sequences = [ids[ids >= 0].cpu().numpy() for ids in observations]
    there = policies["cuda"].evaluate(pack_suffixes(sequences, [2, 4], "cuda")).log_probs
    torch.testing.assert_close(there, torch.stack(noted, 1).flatten(), atol=1e-4, rtol=0)
    here = policies["cpu"].evaluate(pack_suffixes(sequences, [2, 4], "cpu")).log_probs
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_decoded_ahead_is_what_is_evaluated(family: str, make_model: Callable[..., Any], tiny_tokenizer: Any):
    policy = CausalLMActorCritic(make_model(family).cuda(), tiny_tokenizer, max_length=LENGTH, decoder="ahead")
    observations = observe([[4, 9], [7, 8, 100, 3]]).cuda()
    noted = []
    for step in range(6):
        action = policy.step(observations)
        assert action.tokens.device.type == action.log_probs.device.type == "cuda"
        observations[torch.arange(2), torch.tensor([2, 4]) + step] = action.tokens
        noted.append(action.log_probs)
    assert policy.decoder == "ahead"
    sequences = [ids[ids >= 0].cpu().numpy() for ids in observations]
    wanted = policy.log_probs(pack_suffixes(sequences, [2, 4], "cuda"))
    torch.testing.assert_close(torch.stack(noted, 1).flatten(), wanted, atol=1e-4, rtol=0)


def test_frequencies_follow_the_distribution():
    """CHECKS 25: 200000 draws on the device, within five standard errors for every token."""
    probs = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    drawn = sample(probs.log().cuda().expand(200_000, 6), SamplingParams(top_k=4))
    counts = torch.bincount(drawn.tokens, minlength=6).cpu().double() / 200_000
    kept = probs.double() * (torch.arange(6) < 4)
    kept = kept / kept.sum()
    assert ((counts - kept).abs() <= 5 * (kept * (1 - kept) / 200_000).sqrt()).all()


def test_whole_episodes_equal_the_stepwise_charge(tiny_task: Task, make_model: Callable[..., Any]):
    """CHECKS 4 and 7: reference and policy on the GPU, the environment's bookkeeping on the host."""
    env = TextGenVectorEnv(8, tiny_task, kl_mode="log_ratio", autoreset_mode="SAME_STEP", device="cuda")
    assert env.kl_penalty.reference.lm.device.type == "cuda"
    model = make_model("llama", seed=1).cuda()
    policy = CausalLMActorCritic(model, env.tokenizer, max_length=env.rules.max_length)
    observations, _ = env.reset(seed=0)
    prompts = [ids[ids >= 0] for ids in observations]
    log_probs: list[list[float]] = [[] for _ in range(8)]
    charged: list[list[float]] = [[] for _ in range(8)]
    sequences, firsts, noted, kl = [], [], [], []
    for _ in range(20):
        action = policy.step(torch.from_numpy(observations).cuda())
        observations, *_ = env.step(TokenAction(action.tokens, action.log_probs))
        for row in range(8):
            log_probs[row].append(float(action.log_probs[row]))
            charged[row].append(float(env.transition.kl[row]))
        for row, episode in env.transition.episodes:
            sequences.append(np.concatenate([prompts[row], episode.response_ids]))
            firsts.append(len(prompts[row]))
            noted += log_probs[row]
            kl += charged[row]
            log_probs[row], charged[row] = [], []
            prompts[row] = observations[row][observations[row] >= 0]
            assert episode.episode_return == pytest.approx(episode.score - 0.1 * episode.kl_sum, abs=1e-5)
    terms = env.kl_penalty(pack_suffixes(sequences, firsts, "cuda"), torch.tensor(noted, device="cuda"))
    np.testing.assert_allclose(terms.kl.cpu().numpy(), kl, atol=1e-4)
    assert np.abs(kl).max() > 0.5


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_training_stays_on_the_device(dtype: str, tiny_task: Task):
    """Stock PPO: weights, cache, buffer and update on the GPU, a finite and rising objective's bookkeeping intact."""
    env_kwargs = {"task": tiny_task, "device": "cuda", "dtype": dtype}
    agent = make_agent("ppo", env_kwargs=env_kwargs, n_envs=8, n_steps=16, seed=0, learning_rate=1e-3)
    before = [weight.detach().clone() for weight in agent.policy.parameters()]
    agent.learn(256)
    assert {weight.device.type for weight in agent.policy.parameters()} == {"cuda"}
    assert agent.policy.actor_critic.lm.dtype == getattr(torch, dtype)
    assert any(not torch.equal(old, new) for old, new in zip(before, agent.policy.parameters(), strict=True))
    assert all(torch.isfinite(weight).all() for weight in agent.policy.parameters())
    for episode in agent.rollout_buffer.episodes:
        assert episode.episode_return == pytest.approx(episode.score - 0.1 * episode.kl_sum, abs=1e-4)
    agent = make_agent("ppo", env_kwargs=env_kwargs, n_envs=8, n_steps=16, seed=0, learning_rate=0.0)
    agent.learn(128)
    for batch in agent.rollout_buffer.get(64):
        _, log_probs, _ = agent.policy.evaluate_actions(batch.observations, batch.actions)
        ratio = (log_probs - batch.old_log_prob).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rllib_stays_on_the_device():
    """Env runner, packed batch, reference and update on the GPU; the ratio starts at 1 with episodes cut."""
    from textrl_agents.rllib import make_config
    from textrl_agents.speed.training.rllib_rows import RLlibPhases

    settings = {"num_envs_per_env_runner": 8, "rollout_fragment_length": 3, "num_epochs": 1, "lr": 1e-3, "seed": 0}
    side = RLlibPhases(make_config("ppo", {"task": "exact", "device": "cuda"}, **settings))
    assert side.runner.module.actor_critic.device.type == "cuda"
    for _ in range(3):
        side.sync()
        side.sample()
        batch = side.pack()
        assert {tensor.device.type for tensor in (*batch.pop("obs").values(), *batch.values())} == {"cuda"}
        side.update()
    module = side.learner.module["default_policy"]
    side.sync()
    side.sample()
    batch = side.pack()
    with torch.no_grad():
        log_probs = module.forward_train(batch)["action_dist_inputs"][..., 0]
    mask = batch["loss_mask"]
    torch.testing.assert_close(log_probs[mask], batch["action_logp"][mask], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_speed_rows_of_a_model_run_on_the_device():
    """`textrl bench speed --model` measures peaks, PPO and both ways to generate there: no row fails."""
    from textrl_agents.speed.speed import run_speed

    for package in ("peft", "vaderSentiment", "trl"):
        pytest.importorskip(package)
    rows = run_speed(model="embedded", device="cuda", repeats=1, quick=True)
    assert all(row["value"] is not None and row["value"] > 0 for row in rows), rows
