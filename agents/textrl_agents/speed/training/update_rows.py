"""Rows on updates: one forward per episode against one per transition, long responses against short, a separate value
trunk against a shared one, peak memory.

Each side of the memory row runs in a process of its own: a peak can be read only once, and an allocator that has been
full keeps what it got.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from stable_baselines3 import PPO

from textrl_agents.sb3 import CausalLMPolicy, TextVecEnv, make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement
from textrl_agents.speed.workload import word_tokenizer, zero_reward
from textrl_agents.training.provenance import resident_bytes
from textrl_env.foreign_text import message_of
from textrl_env.tasks import Task

VOCABULARY = 50257  # GPT-2's
PROMPT_TOKENS = 8


@measurement(Target(">=", 20.0), quick={"rows": 2})
def episodes_against_prefixes(bench: Bench, *, rows: int = 8, tokens: int = 64) -> Measured:
    """Compare stock `PPO.train` over EpisodeRolloutBuffer with the same over SB3's own, one prefix a transition.

    rows: episodes, each of `tokens` tokens.
    """
    workload = bench.workload().without_eos()
    batch_size = max(2, rows * tokens // 4)
    ours = workload.agent(rows, tokens, tokens, n_epochs=1, batch_size=batch_size)
    env = TextVecEnv(
        num_envs=rows,
        task=workload.task(rows, tokens),
        model=workload.model,
        tokenizer=workload.tokenizer,
        device=bench.device,
    )
    prefixes = SB3Phases(
        PPO(
            CausalLMPolicy,
            env,
            n_steps=tokens,
            n_epochs=1,
            batch_size=batch_size,
            learning_rate=0.0,
            policy_kwargs={"model": copy.deepcopy(workload.model), "tokenizer": workload.tokenizer},
            device=bench.device,
        )
    )
    ours.collect()
    prefixes.collect()
    result = compare(ours.train, prefixes.train, repeats=min(bench.repeats, 3), device=bench.device)
    return compared(result, "episodes", "prefixes")


@measurement(Target("<=", 1.5), quick={"batch_size": 1024})
def long_against_short(bench: Bench, *, long: int = 256, short: int = 32, batch_size: int = 2048) -> Measured:
    """Compare the update's time per token on responses of `long` tokens with that on responses of `short` ones.

    batch_size: tokens in a minibatch, which is the whole rollout.
    """
    workload = bench.workload().without_eos()
    agents = []
    for tokens in (long, short):
        agent = workload.agent(batch_size // tokens, tokens, tokens, n_epochs=1, batch_size=batch_size)
        agent.collect()
        agents.append(agent)
    speeds = compare(agents[0].train, agents[1].train, repeats=bench.repeats, device=bench.device)
    times = speeds._replace(ratio=1.0 / speeds.ratio)
    return compared(times, f"responses of {long}", f"of {short}")


@measurement(Target(">=", 0.5), quick={"n_steps": 32})
def separate_trunk_against_shared(bench: Bench, *, rows: int = 32, longest: int = 64, n_steps: int = 64) -> Measured:
    """Compare stock PPO's rollout and update with a separate value trunk and with a shared one.

    The update runs two decoders in place of one, and sampling only one: the values come after the rollout. longest:
    tokens of a response at most. n_steps: of a rollout.
    """

    def learning(trunk: str) -> Callable[[], int]:
        phases = bench.workload().agent(rows, n_steps, longest, policy_kwargs={"value_trunk": trunk})

        def rollout_and_update() -> int:
            tokens = phases.collect()
            phases.train()
            return tokens

        return rollout_and_update

    result = compare(learning("separate"), learning("shared"), repeats=bench.repeats, device=bench.device)
    return compared(result, "separate", "shared")


@measurement(Target("<=", 0.4), quick={"rows": 32})
def memory_of_an_update(bench: Bench, *, rows: int = 64, tokens: int = 64, vocabulary: int = VOCABULARY) -> Measured:
    """Compare the peaks of stock `PPO.train` on one minibatch of `rows * tokens` transitions.

    A peak is what is held above that before the update.
    """
    chunked, unchunked = (_in_child(bench.device, vocabulary, rows, tokens, chunked) for chunked in (True, False))
    detail = (
        f"{rows * tokens} tokens, vocabulary {vocabulary}: "
        f"chunked {chunked / 2**20:,.0f} MiB, unchunked {unchunked / 2**20:,.0f} MiB"
    )
    return Measured(chunked / unchunked, detail)


def _in_child(*sizes: Any) -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_or_failure, *sizes).result()


def _peak_or_failure(device: torch.device, vocabulary: int, rows: int, tokens: int, chunked: bool) -> int:
    """`peak_of_update` in a process of its own. An error of a library may not be one that can be sent to another."""
    torch.set_num_threads(1)
    try:
        return peak_of_update(device, vocabulary=vocabulary, rows=rows, tokens=tokens, chunked=chunked)
    except Exception as error:
        raise MemoryError(f"the measured update failed: {type(error).__name__}: {message_of(error)}") from None


def word_model(vocabulary: int) -> tuple[Any, Any]:
    """Make a narrow GPT-2 over `vocabulary` words, all of which its tokenizer knows, as an ordinary model's does."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_positions=256, n_embd=64, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    return GPT2LMHeadModel(config), word_tokenizer(vocabulary)


def peak_of_update(device: torch.device, *, vocabulary: int, rows: int, tokens: int, chunked: bool) -> int:
    """Return the bytes above those held before, at the peak of one update on `rows * tokens` transitions."""
    model, tokenizer = word_model(vocabulary)
    prompt = " ".join(f"w{i + 1}" for i in range(PROMPT_TOKENS))
    task = Task(
        name="memory", prompts=[prompt], reward=zero_reward, max_prompt_tokens=PROMPT_TOKENS, max_new_tokens=tokens
    )
    arguments = {"task": task, "model": model, "tokenizer": tokenizer, "device": device}
    agent = make_agent(
        "ppo", n_envs=rows, n_steps=tokens, n_epochs=1, batch_size=rows * tokens, env_kwargs=arguments, seed=0
    )
    if not chunked:
        agent.policy.actor_critic.chunk_elements = None
    phases = SB3Phases(agent)
    phases.collect()
    before = _held(device)
    phases.train()
    return _peak(device) - before


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):  # where it cannot be reset the rollout's own, lower, peak counts too
        Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    found = resident_bytes(field)
    if found is None:
        raise OSError("the memory of a process cannot be read on this system")
    return found
