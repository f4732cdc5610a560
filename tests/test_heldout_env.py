"""The one way to build what a policy is judged in: from the arguments that it was trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.evaluation.heldout_env import EVAL_ROWS, heldout_env
from textrl_env import Task, TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic

OWN = [f"{first}{second}" for first in "abcde" for second in "abcd"]


def test_training_has_no_say_in_how_it_is_judged(tiny_task: Task) -> None:
    arguments = {"task": tiny_task, "kl_mode": "deferred", "with_reference": False, "split": "train", "kl_coef": 0.3}
    env = heldout_env(arguments, episodes=8)
    assert (env.autoreset_mode, env.rules.kl_mode) == (AutoresetMode.SAME_STEP, "deferred")
    assert env.kl_penalty.require_reference()
    assert (env.kl_penalty.coef, env.prompts.split, env.num_envs) == (0.3, "heldout", 8)
    assert heldout_env({**arguments, "kl_mode": "auto"}, episodes=1000).num_envs == EVAL_ROWS
    assert heldout_env(arguments, episodes=1000, rows=5).num_envs == 5


def test_the_reference_of_an_adapter_is_the_weights_it_sits_on(tiny_task: Task) -> None:
    pytest.importorskip("peft")
    arguments = {"task": tiny_task, "lora": {"r": 2}}
    trained = TextGenVectorEnv(2, **arguments)
    model = trained.kl_penalty.require_reference().lm.model
    policy = CausalLMActorCritic(model, trained.tokenizer, max_length=trained.rules.max_length)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight)
    alone, shared = heldout_env(arguments, episodes=2), heldout_env(arguments, episodes=2, policy=policy)
    assert shared.kl_penalty.require_reference().lm.model is model, "nothing is loaded again"
    assert not hasattr(alone.kl_penalty.require_reference().lm.model, "disable_adapter")
    observations, _ = alone.reset(seed=0)
    tokens = observations[:, 0] * 0 + 4
    one, other = (env.kl_penalty.require_reference().step_log_probs(observations, tokens) for env in (alone, shared))
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    ("split", "given", "served"),
    [
        ("heldout", {}, "heldout"),
        ("validation", {}, "validation"),
        (None, {}, "given"),
        ("heldout", {"heldout_prompts": []}, "train"),
    ],
)
def test_which_of_own_prompts_are_served(split: str | None, given: dict[str, Any], served: str) -> None:
    arguments = {"task": "exact", "prompts": OWN, "max_prompt_tokens": 2, **given}
    env = heldout_env(arguments, episodes=2, split=split)
    assert env.prompts.split == served
    assert len(env.prompts) == {"heldout": 2, "validation": 2, "given": 20, "train": 18}[served]
