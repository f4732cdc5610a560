"""A task whose optimum has a closed form, with per-token rewards and a uniform reference.

One of V tokens earns 1/T each time it is drawn in a response of T tokens. The KL-regularised optimum draws every token
from the same distribution, `pi(a) ~ pi_ref(a) * exp(score(a) / kl_coef)`, so the rewarded one has the share
`e^x / (e^x + V - 1)` with `x = 1 / (T * kl_coef)`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from textrl_agents.policy import Policy
from textrl_agents.rollout import collect
from textrl_agents.speed.workload import word_tokenizer
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env import TextGenVectorEnv
from textrl_env.rewards import TokenFunctionReward
from textrl_env.tasks import Task

VOCABULARY = 64
TOKENS = 16
KL_COEF = 0.02
REWARDED = 7
OPTIMUM = 1.0 / (1.0 + (VOCABULARY - 1) * math.exp(-1.0 / (TOKENS * KL_COEF)))  # 0.265
SAMPLED_RESPONSES = 512


def rewarded_share(prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Score each newest token: 1/T where it is the rewarded one, else 0."""
    return [float(ids[-1] == REWARDED) / TOKENS for ids in completion_ids]


def uniform_model() -> tuple[Any, Any]:
    """Make a small transformer that gives every token the same probability, and its tokenizer; there is no EOS."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS + 1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    return model, word_tokenizer(VOCABULARY)


ONE_TOKEN_TASK = Task(
    name="one token",
    prompts=["w1"],
    reward=TokenFunctionReward(rewarded_share, timeout=None),
    model=uniform_model,
    kl_coef=KL_COEF,
    max_prompt_tokens=1,
    max_new_tokens=TOKENS,
)


# RLlib's PPO reaches the optimum with these settings in so many batches.
SETTINGS: dict[str, Any] = {
    "num_envs_per_env_runner": 64,
    "rollout_fragment_length": TOKENS,
    "minibatch_size": 256,
    "vf_loss_coeff": 0.5,
    "lr": WarmupSchedule(1e-2, final=0.0),
}
ITERATIONS = 60


def share_of_rewarded(policy: Policy, responses: int = SAMPLED_RESPONSES) -> float:
    """Return the rewarded token's share in fresh samples."""
    env = TextGenVectorEnv(responses, ONE_TOKEN_TASK, kl_mode="deferred", with_reference=False, device=policy.device)
    sampled = collect(policy, env, episodes=responses)
    return float(np.mean([episode.response_ids == REWARDED for episode in sampled]))
