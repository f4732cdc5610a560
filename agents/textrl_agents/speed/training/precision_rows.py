"""Rows on precision: what "auto" chooses, and micro-batches, against float32 that holds a minibatch at once."""

from __future__ import annotations

from typing import Any

from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement
from textrl_agents.speed.random_llama import PROMPT_TOKENS, LlamaSize, llama_phases

# A small pretrained model's width, that of SmolLM2-135M, with fewer layers.
WIDTH, LAYERS = 576, 4


@measurement(Target(">=", 0.95), quick={"rows": 4, "tokens": 8, "layers": 1})
def rollout(bench: Bench, *, rows: int = 32, tokens: int = 32, layers: int = LAYERS) -> Measured:
    """Compare rollouts of `rows * tokens` tokens in the precision that "auto" chooses with those in float32."""
    auto, plain = (_phases(bench, rows, tokens, layers, precision) for precision in ("auto", "float32"))
    result = compare(auto.collect, plain.collect, repeats=bench.repeats, device=bench.device)
    return compared(result, f"auto ({_computes_in(auto)})", "float32")


@measurement(Target(">=", 0.95), quick={"rows": 4, "tokens": 8, "layers": 1})
def update(bench: Bench, *, rows: int = 16, tokens: int = 32, layers: int = LAYERS) -> Measured:
    """Compare stock PPO's update on `rows * tokens` tokens in the precision of "auto" with that in float32."""
    auto, plain = (_phases(bench, rows, tokens, layers, precision) for precision in ("auto", "float32"))
    auto.collect()
    plain.collect()
    result = compare(auto.train, plain.train, repeats=bench.repeats, device=bench.device)
    return compared(result, f"auto ({_computes_in(auto)})", "float32")


@measurement(Target(">=", 0.5), quick={"rows": 4, "tokens": 8, "layers": 1})
def micro_batches(bench: Bench, *, rows: int = 16, tokens: int = 32, layers: int = LAYERS) -> Measured:
    """Compare the update in micro-batches of two sequences with the one that holds a minibatch of `rows` at once."""
    few = {"micro_batch_tokens": 2 * (PROMPT_TOKENS + tokens)}
    parts, whole = (_phases(bench, rows, tokens, layers, "float32", **settings) for settings in (few, {}))
    parts.collect()
    whole.collect()
    result = compare(parts.train, whole.train, repeats=bench.repeats, device=bench.device)
    return compared(result, "micro-batches", "at once")


def _phases(bench: Bench, rows: int, tokens: int, layers: int, precision: str, **settings: Any) -> SB3Phases:
    size = LlamaSize(WIDTH, layers, heads=9, key_heads=3)
    return llama_phases(size, rows=rows, tokens=tokens, device=bench.device, precision=precision, **settings)


def _computes_in(phases: SB3Phases) -> str:
    return str(phases.agent.policy.actor_critic.lm.dtype).removeprefix("torch.")  # type: ignore[union-attr, operator]
