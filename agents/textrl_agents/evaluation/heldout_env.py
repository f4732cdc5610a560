"""The environment that a policy is judged in: prompts that are not trained on, and the KL of whole responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode

from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic
from textrl_env.rewards.protocol import as_measured
from textrl_env.tasks.splits import best_split

EVAL_ROWS = 64
# Arguments that count in training alone: an evaluation always has the reference, which is the model without an adapter,
# and charges the KL afterwards.
_OF_TRAINING = ("lora", "kl_mode", "with_reference")


def heldout_env(
    arguments: Mapping[str, Any],
    *,
    episodes: int,
    rows: int = EVAL_ROWS,
    split: str | None = "heldout",
    policy: CausalLMActorCritic | None = None,
) -> TextGenVectorEnv:
    """Make the environment that `episodes` episodes are judged in, in SAME_STEP and deferred mode.

    The reward is asked for all responses together, unless the arguments' `score_mode` says otherwise.

    A reward whose scale changes in training is asked without that: scores of before and after can be compared.

    arguments: of the training's environment, its task among them. rows: the most to run at once.
    split: which prompts it serves, where there are such; else the training prompts. None serves all of the `prompts`
        that the arguments may bring, and the held-out prompts where they bring none.
    policy: what is to be judged, in this process. Its weights are shared where they are an adapter's, so that none are
        loaded again.
    """
    chosen = {name: value for name, value in arguments.items() if name not in _OF_TRAINING}
    chosen.setdefault("score_mode", "deferred")
    if policy is not None and hasattr(policy.model, "disable_adapter"):
        chosen |= {"model": policy.model, "tokenizer": policy.tokenizer}
    chosen["split"] = split
    if split is not None or chosen.get("prompts") is None:
        chosen["split"] = best_split(chosen["task"], split or "heldout", chosen)
    env = TextGenVectorEnv(
        min(rows, int(episodes)), autoreset_mode=AutoresetMode.SAME_STEP, kl_mode="deferred", **chosen
    )
    env.replace_reward(as_measured(env.rules.reward))
    return env


def sibling_env(env: TextGenVectorEnv, rows: int, split: str = "heldout") -> TextGenVectorEnv:
    """Make an evaluation environment that shares `env`'s reference, reward and coefficient: nothing is loaded again.

    split: which of the task's prompts it serves, where the task has such; else the training prompts.
    """
    rules, reference = env.rules, env.kl_penalty.require_reference().lm
    # The model is given as a function: a module would be copied, so that training cannot change it.
    task = dataclasses.replace(
        env.task,
        model=lambda: (reference.model, rules.tokenizer),
        tokenizer=None,
        reward=rules.reward,
        gold=rules.gold,
        max_prompt_tokens=rules.max_prompt_tokens,
        max_new_tokens=rules.max_new_tokens,
        stop=rules.stop.strings,
        as_chat=env.prompts.as_chat if rules.turns is None else rules.turns.is_chat,
        system_prompt=env.prompts.system_prompt,
        kl_coef=rules.kl_penalty.controller,
        kl_estimator=rules.kl_penalty.estimator,
    )
    arguments = {
        "task": task,
        "sampling": rules.sampling,
        "device": reference.device,
        "dtype": reference.weight_dtype,
        "precision": reference.precision,
    }
    if rules.turns is not None:
        arguments |= {
            "max_turns": rules.turns.max_turns,
            "max_turn_tokens": rules.turns.max_turn_tokens,
            "turn_timeout": rules.turns.timeout,
            "turn_workers": rules.turns.workers,
        }
    return heldout_env(arguments, episodes=rows, rows=rows, split=split)
