"""A check that users can run on a policy of their own before they train with it."""

from __future__ import annotations

import numpy as np
import torch

from textrl_agents.policy import Policy
from textrl_agents.rollout import collect
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import pack

TOLERANCE = 1e-4  # nats, of a log-probability


@torch.no_grad()
def check_policy(policy: Policy, env: TextGenVectorEnv, *, tolerance: float = TOLERANCE) -> None:
    """Sample a response in each row of `env`, and compare what the methods say of it.

    Raises ConfigError that names the method where `step` samples from one distribution and `states` or `evaluate` give
    another, or where an id is drawn that the tokenizer does not know.
    """
    sampled = collect(policy, env, episodes=env.num_envs, seed=0, deterministic=False)
    packed = pack(sampled, policy.device)
    drawn = torch.from_numpy(np.concatenate([episode.log_probs for episode in sampled]))
    known = torch.from_numpy(env.rules.vocabulary.known)[packed.actions.cpu()]
    if not known.all():
        unknown = int(packed.actions.cpu()[~known][0])
        raise ConfigError(f"step drew {unknown}, an id that the tokenizer does not know: its logit must be -inf")
    logits = policy.states(packed).logits
    said = {
        "evaluate": policy.evaluate(packed).log_probs,
        "states": logits.log_softmax(dim=-1).gather(-1, packed.actions[:, None]).squeeze(-1),
    }
    for name, log_probs in said.items():
        worst = float((log_probs.double().cpu() - drawn).abs().max())
        if not worst <= tolerance:
            raise ConfigError(
                f"{name} differs from step by {worst:.2g} nats in the log-probability of a sampled token: all methods "
                "must mean the distribution that is sampled, after temperature and cuts, at the same state"
            )
