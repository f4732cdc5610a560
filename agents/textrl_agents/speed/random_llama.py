"""Stock PPO on Llamas of any size whose weights are random: what is timed does not depend on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.workload import word_tokenizer, zero_reward
from textrl_env.tasks import Task

VOCABULARY = 8192
PROMPT_TOKENS = 8


class LlamaSize(NamedTuple):
    """A Llama's shape; its multilayer perceptrons are 8/3 as wide as the rest."""

    width: int
    layers: int
    heads: int
    key_heads: int


def llama_phases(
    size: LlamaSize,
    *,
    rows: int,
    tokens: int,
    device: torch.device,
    precision: str = "auto",
    vocabulary: int = VOCABULARY,
    **settings: Any,
) -> SB3Phases:
    """Make stock PPO, one epoch of one minibatch at a learning rate of 0, whose responses are all `tokens` long.

    settings: of CausalLMPolicy.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=8 * size.width // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=max(256, PROMPT_TOKENS + tokens),
        bos_token_id=None,
        eos_token_id=None,
    )
    task = Task(
        name="random llama",
        prompts=[" ".join(f"w{i + 1}" for i in range(PROMPT_TOKENS))],
        reward=zero_reward,
        model=lambda: (LlamaForCausalLM(config), word_tokenizer(vocabulary)),
        max_prompt_tokens=PROMPT_TOKENS,
        max_new_tokens=tokens,
    )
    agent = make_agent(
        "ppo",
        n_envs=rows,
        n_steps=tokens,
        n_epochs=1,
        batch_size=max(2, rows * tokens),
        learning_rate=0.0,
        seed=0,
        env_kwargs={"task": task, "device": device, "precision": precision},
        policy_kwargs=settings,
    )
    return SB3Phases(agent)
