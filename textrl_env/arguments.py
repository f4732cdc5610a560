"""The names of the environment's arguments, known without torch; `textrl_env.tasks.assembly.assemble` takes them."""

from __future__ import annotations

ENV_ARGUMENTS = (
    "task",
    "model",
    "tokenizer",
    "prompts",
    "validation_prompts",
    "heldout_prompts",
    "reward",
    "kl_coef",
    "kl_estimator",
    "kl_mode",
    "max_new_tokens",
    "max_prompt_tokens",
    "sampling",
    "stop",
    "split",
    "lora",
    "device",
    "dtype",
    "with_reference",
)
