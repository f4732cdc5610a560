"""TRL's DPO and ORPO, stock, on pairs that were sampled in an environment."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.import_utils import TRLExperimentalWarning

from textrl_agents.training.learning_rate import default_learning_rate
from textrl_agents.trl.arguments import trl_arguments
from textrl_agents.trl.session import StopOnDivergence, restore, silence, trl_session
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.models import CausalLMActorCritic
from textrl_env.trajectory import Trajectory

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TRLExperimentalWarning)  # of every user of ORPO, who has nowhere else to turn
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

OFFLINE: dict[str, tuple[type[Any], type[Any]]] = {
    "dpo": (DPOTrainer, DPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "dpo": {"per_device_train_batch_size": 32, "num_train_epochs": 1},
    "orpo": {"per_device_train_batch_size": 32, "num_train_epochs": 1},
}
REFUSED = ("remove_unused_columns", "max_length", "max_completion_length", "precompute_ref_log_probs")
IGNORED = -100  # a label that has no loss

Pair = tuple[Trajectory, Trajectory]  # the better response to a prompt, and the worse one


def train_offline(
    algorithm: str,
    env: TextGenVectorEnv,
    policy: CausalLMActorCritic,
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train `policy` in place by TRL's `algorithm` ("dpo" or "orpo") on `pairs`.

    env: its reference is DPO's. settings: fields of TRL's config.
    Raises UnknownName and ConfigError for what cannot be set.
    """
    if algorithm not in OFFLINE:
        raise UnknownName("algorithm", algorithm, OFFLINE)
    if not pairs:
        raise ConfigError(f"{algorithm} needs at least one pair, got none")
    trainer_class, config_class = OFFLINE[algorithm]
    trained = sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad)
    with trl_session() as folder:
        arguments = trl_arguments(
            config_class,
            f"trl_{algorithm}",
            settings or {},
            folder=folder,
            seed=seed,
            device=policy.device,
            decided={
                "learning_rate": default_learning_rate(trained),
                "max_length": env.rules.max_length,
                "remove_unused_columns": False,
                **DEFAULTS[algorithm],
            },
            refused=REFUSED,
        )
        tokenizer = copy.deepcopy(env.tokenizer)
        if tokenizer.pad_token is None:  # DPO's trainer does this by itself, ORPO's does not
            tokenizer.pad_token = tokenizer.eos_token
        trainer = trainer_class(
            model=policy.model,
            args=arguments,
            train_dataset=_placeholder(tokenizer),
            processing_class=tokenizer,
            callbacks=[StopOnDivergence()],
            **_reference(algorithm, env, policy),
        )
        # TRL would tokenize the responses' texts anew, and append EOS to those that were cut. It gets what was sampled.
        trainer.train_dataset = Dataset.from_list([ROWS[algorithm](*pair) for pair in pairs])
        silence(trainer)
        try:
            trainer.train()
        finally:
            restore(policy.model)
            policy.clear_cache()


def dpo_row(chosen: Trajectory, rejected: Trajectory) -> dict[str, list[int]]:
    """A pair as TRL's DPO has it after tokenization."""
    responses = {"chosen_ids": chosen.response_ids.tolist(), "rejected_ids": rejected.response_ids.tolist()}
    return {"prompt_ids": chosen.prompt_ids.tolist(), **responses}


def orpo_row(chosen: Trajectory, rejected: Trajectory) -> dict[str, list[int]]:
    """A pair as TRL's ORPO has it after tokenization."""
    prompt = chosen.prompt_ids.tolist()
    row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        row |= {
            f"{name}_input_ids": response.ids.tolist(),
            f"{name}_attention_mask": [1] * len(response.ids),
            f"{name}_labels": np.where(response.is_action, response.ids, IGNORED).tolist(),
        }
    return row


ROWS = {"dpo": dpo_row, "orpo": orpo_row}


def _placeholder(tokenizer: Any) -> Dataset:
    """One row of text for the constructor to tokenize; nothing is trained on it."""
    text = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return Dataset.from_list([{"prompt": text, "chosen": text, "rejected": text}])


def _reference(algorithm: str, env: TextGenVectorEnv, policy: CausalLMActorCritic) -> dict[str, Any]:
    """DPO's reference model: a copy, for the trainer changes its `forward`. A peft model is its own."""
    if algorithm != "dpo" or hasattr(policy.model, "disable_adapter"):
        return {}
    return {"ref_model": copy.deepcopy(env.kl_penalty.require_reference().lm.model)}
