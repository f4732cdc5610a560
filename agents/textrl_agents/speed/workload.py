"""What `textrl bench speed` runs: a model, its prompts, a reward model, and SB3's PPO over them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_env.language.grammar import review_prompts
from textrl_env.models import load_model
from textrl_env.models.storage.embedded import asset_folder
from textrl_env.rewards import ClassifierReward
from textrl_env.tasks import Task
from textrl_env.text.prompts import PromptSet

LONGEST_PROMPT = 1024  # tokens


@dataclass(frozen=True, eq=False)
class Workload:
    """A causal LM and what scores its responses, on `device`.

    prompts: texts; a batch of n takes the first n of them, and starts again where there are fewer.
    classifier, classifier_tokenizer: the reward model as code with `transformers` alone uses it; None where `reward`
        scores.
    reward: what an environment scores by; None stands for the classifier.
    as_chat: whether prompts are asked by the tokenizer's chat template.
    """

    model: Any
    tokenizer: Any
    prompts: list[str]
    classifier: Any
    classifier_tokenizer: Any
    device: torch.device
    reward: Any = None
    as_chat: bool = False

    def without_eos(self) -> Workload:
        """Copy the models so that no token ends a response: all responses are then equally long.

        The chat template, which writes an end of turn, goes too: prompts are then texts to continue.
        """
        model, tokenizer = without_eos(copy.deepcopy(self.model), copy.deepcopy(self.tokenizer))
        return dataclasses.replace(self, model=model, tokenizer=tokenizer)

    @property
    def generator(self) -> Any:
        """The `transformers` model that generates: of a peft model the one inside, whose layers hold the adapter."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def batch(self, rows: int) -> list[str]:
        """Return one prompt for each of `rows` rows."""
        return [self.prompts[row % len(self.prompts)] for row in range(rows)]

    def prompt_ids(self, rows: int) -> list[list[int]]:
        """Return the ids of those prompts, as an environment shows them."""
        prompts = PromptSet(
            self.batch(rows), self.tokenizer, max_prompt_tokens=LONGEST_PROMPT, overflow="error", as_chat=self.as_chat
        )
        return [prompt.ids.tolist() for prompt in prompts]

    def task(self, rows: int, max_new_tokens: int) -> Task:
        """Make a task of those prompts and the reward. It has no gold scorer, as the baseline has none."""
        reward = self.reward or ClassifierReward(self.classifier, self.classifier_tokenizer)
        return Task(
            name="speed",
            prompts=self.batch(rows),
            reward=reward,
            max_prompt_tokens=max(map(len, self.prompt_ids(rows))),
            max_new_tokens=max_new_tokens,
            as_chat=self.as_chat,
        )

    def agent(
        self,
        rows: int,
        n_steps: int,
        max_new_tokens: int,
        env_kwargs: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> SB3Phases:
        """Make stock PPO on that task. Its learning rate is 0, so that every round does the same work."""
        arguments = {
            **(env_kwargs or {}),
            "task": self.task(rows, max_new_tokens),
            "model": self.model,
            "tokenizer": self.tokenizer,
            "device": self.device,
        }
        agent = make_agent(
            "ppo", n_envs=rows, n_steps=n_steps, env_kwargs=arguments, learning_rate=0.0, seed=0, **overrides
        )
        return SB3Phases(agent)


def without_eos(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Change both so that no token ends a response."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # generate() needs an id to pad with, and would otherwise take the EOS that is removed here.
    base.generation_config.pad_token_id = tokenizer.pad_token_id
    base.generation_config.eos_token_id = base.config.eos_token_id = None
    tokenizer.eos_token = tokenizer.chat_template = None  # the template writes an end of turn
    return model, tokenizer


def embedded_workload(device: torch.device) -> Workload:
    """Load the embedded policy and reward model, on the prompts of `sentiment`."""
    policy = load_model("embedded", device=device)
    reward = ClassifierReward(asset_folder("reward"), device=device)
    # A tokenizer of its own: ClassifierReward sets its copy up in another way.
    tokenizer = load_model("embedded", device=device).tokenizer
    return Workload(policy.model, policy.tokenizer, review_prompts("train"), reward.model, tokenizer, device)


def word_tokenizer(words: int) -> Any:
    """Make a tokenizer of the words w0, w1, ... between blanks, none of which is a special token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", clean_up_tokenization_spaces=False)


def zero_reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Score every response 0, at no cost."""
    return [0.0] * len(completions)
