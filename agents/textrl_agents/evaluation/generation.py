"""Plain sampling from a policy, without a reward: the environment's own transition with nothing to score."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from textrl_env.actions import parse_actions
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.kl import KLPenalty
from textrl_env.mdp import EpisodeRules, TokenMDP
from textrl_env.models import CausalLMActorCritic
from textrl_env.text.prompts import PromptSet
from textrl_env.text.stopping import StopStrings

DEFAULT_NEW_TOKENS = 64


class Completion(NamedTuple):
    """One response."""

    prompt: Any  # str, or chat messages
    response: str
    finish_reason: str  # "eos", "stop" or "length"
    tokens: int  # with EOS
    log_prob: float  # nats, of the whole response under the distribution sampled; 0 where greedy


def generate(
    actor_critic: CausalLMActorCritic,
    prompts: Sequence[Any],
    *,
    n: int = 1,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    deterministic: bool | None = None,
    stop: Sequence[str] = (),
    seed: int | None = None,
    batch_size: int = 64,
) -> list[Completion]:
    """`n` responses to each prompt, in the order of the prompts.

    prompts: texts or chats. max_new_tokens: None for 64, or what the model's positions leave.
    temperature: None for the policy's own.
    deterministic: greedy decoding; None as the policy was trained to be decoded.
    seed: None draws from torch's generator as it is; with a seed that generator is left as it was.

    Raises PromptError, and ConfigError where the prompts and `max_new_tokens` exceed the model's positions.
    """
    for name, value in (("n", n), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be a whole number >= 1, got {shown(value)}")
    if seed is not None and not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be a whole number in [0, 2**64), got {shown(seed)}")
    positions = actor_critic.lm.max_positions or 2**20
    room = positions - (max_new_tokens or 1)
    if room < 1:
        raise ConfigError(f"max_new_tokens={shown(max_new_tokens)} leaves no room in the model's {positions} positions")
    encoded = list(PromptSet(list(prompts), actor_critic.tokenizer, max_prompt_tokens=room, overflow="error"))
    longest = max(len(prompt.ids) for prompt in encoded)
    if deterministic is None:
        deterministic = actor_critic.greedy
    before = actor_critic.sampling
    if temperature is not None:
        actor_critic.sampling = dataclasses.replace(before, temperature=temperature)
    rules = EpisodeRules(
        tokenizer=actor_critic.tokenizer,
        vocabulary=actor_critic.vocabulary,
        reward=_no_reward,
        kl_penalty=KLPenalty(None, 0.0),
        kl_mode="deferred",
        sampling=actor_critic.sampling,
        max_prompt_tokens=longest,
        max_new_tokens=max_new_tokens or min(DEFAULT_NEW_TOKENS, positions - longest),
        stop=StopStrings(stop, actor_critic.tokenizer, actor_critic.vocabulary.known),
    )
    rows = [prompt for prompt in encoded for _ in range(n)]
    devices = list(range(torch.cuda.device_count())) if seed is not None else []
    try:
        with torch.random.fork_rng(devices=devices, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return [
                completion
                for start in range(0, len(rows), batch_size)
                for completion in _batch(actor_critic, rules, rows[start : start + batch_size], deterministic)
            ]
    finally:
        actor_critic.sampling = before
        actor_critic.clear_cache()


def _batch(
    actor_critic: CausalLMActorCritic, rules: EpisodeRules, prompts: list[Any], deterministic: bool
) -> list[Completion]:
    mdp = TokenMDP(rules, len(prompts))
    mdp.reset_rows(range(len(prompts)), prompts)
    log_probs = np.zeros(len(prompts))
    completions: list[Completion | None] = [None] * len(prompts)
    while mdp.running.any():
        live = mdp.running.copy()
        observations = torch.from_numpy(mdp.ids).to(actor_critic.device)
        tokens, step_log_probs, _ = actor_critic.step(observations, deterministic=deterministic)
        log_probs[live] += step_log_probs.double().cpu().numpy()[live]
        actions = parse_actions(tokens, len(prompts), rules.vocabulary.size)
        for row, episode in mdp.step(actions, live).episodes:
            completions[row] = Completion(
                episode.prompt,
                episode.response,
                episode.finish_reason,
                len(episode.response_ids),
                float(log_probs[row]),
            )
    return [completion for completion in completions if completion is not None]


def _no_reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)
