"""A pretrained model by its name, with the task and the settings of `textrl demo --model NAME`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from textrl_agents.runs.demo import PRETRAINED
from textrl_agents.speed.rooflines.model_costs import ModelCosts, matrix_shapes
from textrl_agents.speed.rooflines.peaks import Peaks, measure_peaks
from textrl_agents.speed.rooflines.ppo_bounds import PPOTimes, time_ppo
from textrl_agents.speed.workload import Workload
from textrl_env.errors import MissingExtra
from textrl_env.models import CausalLMActorCritic, Vocabulary, load_model
from textrl_env.rewards import make_reward
from textrl_env.tasks import get_task
from textrl_env.tasks.splits import split_rows


@dataclass(frozen=True, eq=False, kw_only=True)
class PretrainedWorkload(Workload):
    """A model with an adapter (LoRA), the prompts of the demo's task asked as chats, and its reward.

    env: the environment's arguments, by which all this can be loaded again, but for the device.
    max_new_tokens: of the demo's responses.
    """

    env: Mapping[str, Any]
    max_new_tokens: int
    _times: dict[Any, PPOTimes] = field(init=False, default_factory=dict)

    @functools.cached_property
    def policy(self) -> CausalLMActorCritic:
        """The model as a policy, whose work can be counted."""
        return CausalLMActorCritic(self.model, self.tokenizer, max_length=self.max_new_tokens)

    @functools.cached_property
    def costs(self) -> ModelCosts:
        """What its passes take."""
        return ModelCosts.of(self.policy)

    @functools.cached_property
    def peaks(self) -> Peaks:
        """What the device reaches in the model's type and shapes."""
        return measure_peaks(matrix_shapes(self.policy), self.policy.lm.dtype, self.device)

    def ppo_times(self, *, rows: int, n_steps: int, repeats: int) -> PPOTimes:
        """Time stock PPO as the demo runs it. Measured once: several rows of the table tell of it."""
        key = (rows, n_steps, repeats)
        if key not in self._times:
            phases = self.agent(rows, n_steps, self.max_new_tokens, n_epochs=PRETRAINED["algorithm"]["n_epochs"])
            self._times[key] = time_ppo(phases, self.peaks, repeats=repeats, device=self.device)
        return self._times[key]


def check_pretrained() -> None:
    """Raise MissingExtra where a package is not installed that the demo's task or its adapter needs."""
    needed = {**get_task(PRETRAINED["task"]).requires, "peft": "peft"}
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(extra, package)


def pretrained_workload(model: str, device: torch.device) -> PretrainedWorkload:
    """Load a model by any name that `load_model` takes. Raises ModelError and MissingExtra."""
    check_pretrained()
    task = get_task(PRETRAINED["task"])
    longest = PRETRAINED["env"]["max_new_tokens"]
    settings = {name: PRETRAINED[name] for name in ("task", "kl_coef", "lora", "dtype")}
    env = {"model": model, **settings, "max_new_tokens": longest}
    loaded = load_model(model, device=device, dtype=env["dtype"], lora=env["lora"])
    tokenizer, base = loaded.tokenizer, loaded.model.get_base_model()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # generate() ends a response where the environment does.
    base.generation_config.eos_token_id = Vocabulary.of(loaded.model, tokenizer).eos_ids.tolist() or None
    rows = split_rows(task, "train")
    assert rows is not None  # the task is ours
    return PretrainedWorkload(
        loaded.model,
        tokenizer,
        [str(text) for text, _ in rows],
        None,
        None,
        device,
        reward=make_reward(task.reward),
        as_chat=bool(task.as_chat),
        env=env,
        max_new_tokens=longest,
    )
