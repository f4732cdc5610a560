"""What a model answers to the same prompts before and after it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textrl_agents.evaluation.generation import DEFAULT_NEW_TOKENS, generate
from textrl_agents.trl.sft.examples import Example
from textrl_env.models import CausalLMActorCritic
from textrl_env.text.prompt_rows import PromptText, prompt_text
from textrl_env.text.prompts import PromptSet


class Sample(NamedTuple):
    """A prompt, the response that was demonstrated, and the model's own before and after."""

    prompt: str
    demonstrated: str
    before: str
    after: str


class SampledPrompts:
    """Prompts with what was demonstrated; `answers` samples the same way every time."""

    def __init__(self, prompts: Sequence[PromptText], demonstrated: Sequence[str], seed: int):
        self.prompts, self.demonstrated, self.seed = list(prompts), list(demonstrated), seed

    @classmethod
    def of(cls, examples: Sequence[Example], policy: CausalLMActorCritic, count: int, seed: int) -> SampledPrompts:
        """The first `count` different prompts that leave room for a response."""
        room = (policy.lm.max_positions or 2**20) - DEFAULT_NEW_TOKENS
        prompts: list[PromptText] = []
        demonstrated = []
        for example in examples:
            if len(prompts) == count:
                break
            fits = room > 0 and len(PromptSet([example.prompt], policy.tokenizer, max_prompt_tokens=room + 1)[0].ids)
            if example.prompt not in prompts and fits and fits <= room:
                prompts.append(example.prompt)
                demonstrated.append(example.turns[0].response)
        return cls(prompts, demonstrated, seed)

    def answers(self, policy: CausalLMActorCritic) -> list[str]:
        """A response to each prompt."""
        if not self.prompts:
            return []
        sampled = generate(policy, self.prompts, max_new_tokens=DEFAULT_NEW_TOKENS, seed=self.seed)
        return [episode.response for episode in sampled]

    def samples(self, before: Sequence[str], after: Sequence[str]) -> list[Sample]:
        """Put them side by side."""
        texts = map(prompt_text, self.prompts)
        return [Sample(*entry) for entry in zip(texts, self.demonstrated, before, after, strict=True)]
