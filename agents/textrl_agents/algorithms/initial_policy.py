"""The policy that training starts from: the environment's reference, in weights of its own."""

from __future__ import annotations

import copy
from typing import Any

from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic, load_model


def initial_policy(env: TextGenVectorEnv) -> CausalLMActorCritic:
    """A policy that is the environment's reference, in weights of its own.

    Of a peft model the weights are shared, since its reference is the same module with the adapter off.
    """
    reference = env.kl_penalty.require_reference()
    model = reference.lm.model
    if env.model_name is not None:
        device, dtype = reference.lm.device, reference.lm.dtype
        model = load_model(env.model_name, tokenizer=env.tokenizer, device=device, dtype=dtype).model
    elif not hasattr(model, "disable_adapter"):
        model = copy.deepcopy(model).requires_grad_(True)
    return CausalLMActorCritic(model, env.tokenizer, max_length=env.rules.max_length, sampling=env.rules.sampling)


def trained_weights(policy: CausalLMActorCritic) -> list[Any]:
    """The language model's parameters that take gradients; the value head is not among them."""
    return [weight for weight in policy.model.parameters() if weight.requires_grad]
