"""Episodes of the models that ship, as the environment shows them in a terminal."""

from __future__ import annotations

from typing import Any

import torch

from textrl_env import TextGenEnv, TokenAction
from textrl_env.models import CausalLMActorCritic
from textrl_env.text.rendering import DIM, RESET


def policy_of(env: TextGenEnv) -> CausalLMActorCritic:
    """Return the environment's own model as a policy: what every training starts from."""
    reference = env.kl_penalty.require_reference()
    length = env.observation_space.shape[0]
    return CausalLMActorCritic(
        reference.lm.model, env.tokenizer, max_length=length, sampling=env.rules.sampling, precision="float32"
    )


def played(env: TextGenEnv, policy: CausalLMActorCritic, seed: int) -> list[tuple[int, float, dict[str, Any]]]:
    """Play one episode; return token, reward and info of each step."""
    torch.manual_seed(seed)
    observation, _ = env.reset(seed=seed)
    steps: list[tuple[int, float, dict[str, Any]]] = []
    is_over = False
    while not is_over:
        action = policy.step(torch.from_numpy(observation)[None])
        token, log_prob = int(action.tokens[0]), float(action.log_probs[0])
        observation, reward, terminated, truncated, info = env.step(TokenAction(token, log_prob))
        is_over = terminated or truncated
        steps.append((token, reward, info))
    return steps


def shown(env: TextGenEnv) -> str:
    """Return what `env.render()` gives of the episode so far as a block of plain text; the prompt is in brackets."""
    text = str(env.render()).replace(DIM, "[").replace(RESET, "]", 1)
    return f"```text\n{text.strip()}\n```"


def step_table(env: TextGenEnv, steps: list[tuple[int, float, dict[str, Any]]]) -> str:
    """Return a Markdown table with a row for each step."""
    rows = ["| step | token | `kl` | reward |", "|---|---|---|---|"]
    for number, (token, reward, info) in enumerate(steps):
        text = env.tokenizer.decode([token]).replace("|", "\\|").replace("`", "'")
        rows.append(f"| {number} | `{token}` {text!r} | {info['kl']:.3f} | {reward:.3f} |")
    return "\n".join(rows)
