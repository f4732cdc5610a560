"""TRL's offline trainers, stock, on pairs that were sampled in an environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import default_learning_rate
from textrl_agents.trl.arguments import load_trl, trl_algorithm, trl_arguments
from textrl_agents.trl.rows import Pair
from textrl_agents.trl.session import StopOnDivergence, restore, silence, trl_session
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic

REFUSED = ("remove_unused_columns", "max_length", "max_completion_length", "precompute_ref_log_probs")


def train_offline(
    algorithm: str,
    env: TextGenVectorEnv,
    policy: CausalLMActorCritic,
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train `policy` in place on `pairs` by the offline trainer that TRL calls `algorithm`, such as "dpo".

    env: its reference is the trainer's. settings: fields of TRL's config.
    Raises UnknownName and ConfigError for what cannot be set.
    """
    about = trl_algorithm(algorithm, is_online=False)
    if not pairs:
        raise ConfigError(f"{algorithm} needs at least one pair, got none")
    trained = sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad)
    with trl_session() as folder:
        arguments = trl_arguments(
            load_trl(about.config_class),
            about.name,
            settings or {},
            folder=folder,
            seed=seed,
            device=policy.device,
            decided={
                "learning_rate": default_learning_rate(trained),
                "max_length": env.rules.max_length,
                "remove_unused_columns": False,
                **about.defaults,
            },
            refused=REFUSED,
        )
        tokenizer = copy.deepcopy(env.tokenizer)
        if tokenizer.pad_token is None:  # DPO's trainer does this by itself, ORPO's does not
            tokenizer.pad_token = tokenizer.eos_token
        trainer = load_trl(about.trainer_class)(
            model=policy.model,
            args=arguments,
            train_dataset=_placeholder(tokenizer),
            processing_class=tokenizer,
            callbacks=[StopOnDivergence()],
            **_reference(about, env, policy),
        )
        trainer.train_dataset = Dataset.from_list(load_object(about.rows)(pairs))
        silence(trainer)
        try:
            trainer.train()
        finally:
            restore(policy.model)
            policy.clear_cache()


def _placeholder(tokenizer: Any) -> Dataset:
    """One row of text for the constructor to tokenize; nothing is trained on it."""
    text = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return Dataset.from_list([{"prompt": text, "chosen": text, "rejected": text}])


def _reference(algorithm: TRLAlgorithm, env: TextGenVectorEnv, policy: CausalLMActorCritic) -> dict[str, Any]:
    """The reference model: a copy, for the trainer changes its `forward`. A peft model is its own."""
    if not algorithm.has_reference or hasattr(policy.model, "disable_adapter"):
        return {}
    return {"ref_model": copy.deepcopy(env.kl_penalty.require_reference().lm.model)}
