"""What training on a cell starts from: the environments it is trained and judged in, and the reference as a policy."""

from __future__ import annotations

import copy
from typing import Any

from gymnasium.vector import AutoresetMode

from textrl_agents.algorithms.cell import Cell
from textrl_agents.evaluation.heldout_env import heldout_env
from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic, load_model

TRAINING_ROWS = 64  # sampled at once


def training_env(cell: Cell, rows: int = TRAINING_ROWS) -> TextGenVectorEnv:
    """Make the cell's environment over its training prompts; KL and scores are asked for afterwards."""
    arguments = {"score_mode": "deferred", **cell.env_arguments, "kl_mode": "deferred"}
    return TextGenVectorEnv(rows, autoreset_mode=AutoresetMode.SAME_STEP, **arguments)


def judging_env(cell: Cell) -> TextGenVectorEnv:
    """Make what a cell is judged in: the prompts of its split, or the training prompts where there are none."""
    return heldout_env(cell.env_arguments, episodes=cell.eval_episodes, split=cell.split)


def initial_policy(env: TextGenVectorEnv) -> CausalLMActorCritic:
    """Make a policy that is the environment's reference, in weights of its own.

    It shares the weights of a peft model, whose reference is the same module with the adapter off.
    """
    reference = env.kl_penalty.require_reference()
    model = reference.lm.model
    if env.model_name is not None:
        device, dtype = reference.lm.device, reference.lm.weight_dtype
        model = load_model(env.model_name, tokenizer=env.tokenizer, device=device, dtype=dtype).model
    elif not hasattr(model, "disable_adapter"):
        model = copy.deepcopy(model).requires_grad_(True)
    return CausalLMActorCritic(
        model,
        env.tokenizer,
        max_length=env.rules.max_length,
        sampling=env.rules.sampling,
        precision=reference.lm.precision,
        response_tokens=env.rules.max_new_tokens,
    )


def trained_weights(policy: CausalLMActorCritic) -> list[Any]:
    """The language model's parameters that take gradients; the value head is not among them."""
    return [weight for weight in policy.model.parameters() if weight.requires_grad]
