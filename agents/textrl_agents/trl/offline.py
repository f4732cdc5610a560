"""TRL's offline trainers, stock, on pairs that were sampled in an environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.cell_setup import trained_weights
from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.algorithms.response_groups import Pair
from textrl_agents.training.learning_rate import learning_schedule
from textrl_agents.trl.trainer import (
    StopOnDivergence,
    build_trainer,
    refuse_turns,
    train_in_place,
    trl_algorithm,
    trl_arguments,
    trl_session,
)
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic

REFUSED = ("max_length", "max_completion_length", "precompute_ref_log_probs")


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

    env: brings the reference. settings: fields of TRL's config.
    Raises UnknownName and ConfigError for what cannot be set.
    """
    about = trl_algorithm(algorithm, is_online=False)
    refuse_turns(about, env)
    if not pairs:
        raise ConfigError(f"{algorithm} needs at least one pair, got none")
    decided = {
        "learning_rate": learning_schedule(None, trained_weights(policy)).peak,
        "max_length": env.rules.max_length,
        **about.defaults,
    }
    with trl_session() as folder:
        arguments = trl_arguments(
            about, settings or {}, folder=folder, seed=seed, policy=policy, decided=decided, refused=REFUSED
        )
        tokenizer = copy.deepcopy(env.tokenizer)
        if tokenizer.pad_token is None:  # DPO's trainer does this by itself, ORPO's does not
            tokenizer.pad_token = tokenizer.eos_token
        trainer = build_trainer(
            about,
            policy,
            arguments,
            train_dataset=_placeholder(tokenizer),
            processing_class=tokenizer,
            callbacks=[StopOnDivergence()],
            **_reference(about, env, policy),
        )
        trainer.train_dataset = Dataset.from_list(load_object(about.rows)(pairs))
        train_in_place(trainer, policy)


def _placeholder(tokenizer: Any) -> Dataset:
    """One row of text for the constructor to tokenize; nothing is trained on it."""
    text = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return Dataset.from_list([{"prompt": text, "chosen": text, "rejected": text}])


def _reference(algorithm: TRLAlgorithm, env: TextGenVectorEnv, policy: CausalLMActorCritic) -> dict[str, Any]:
    """A copy of the reference model, since the trainer changes its `forward`. A peft model brings its own."""
    if not algorithm.has_reference or hasattr(policy.model, "disable_adapter"):
        return {}
    return {"ref_model": copy.deepcopy(env.kl_penalty.require_reference().lm.model)}
