"""Rows on decoding alone: a policy's steps against the two ways in which `transformers` generates."""

from __future__ import annotations

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from textrl_agents.speed.measurement import Bench, Measured, Target, Work, compare, compared, measurement
from textrl_agents.speed.sampling.rollout_rows import TransformersRollout
from textrl_agents.speed.workload import Workload
from textrl_agents.training.terminal import errors_only
from textrl_env.models import CausalLMActorCritic

PAGE_TOKENS = 32  # of the keys that continuous batching keeps together
NO_TOKEN = -1  # as its EOS: None would stand for the model's own


@measurement(Target(">=", 1.0), quick={"tokens": 32})
def stepping(bench: Bench, *, rows: int = 64, tokens: int = 64) -> Measured:
    """Compare `CausalLMActorCritic.step` on growing observations with `model.generate`, equal lengths."""
    workload = bench.workload().without_eos()
    generate = TransformersRollout(workload, rows, tokens).generated_tokens
    steps = policy_steps(workload, rows, tokens)
    return compared(compare(steps, generate, repeats=bench.repeats, device=bench.device), "act", "generate")


@measurement(Target(">=", 1.0), quick={"tokens": 32})
def stepping_against_continuous_batching(bench: Bench, *, rows: int = 64, tokens: int = 64) -> Measured:
    """Compare the same steps with `model.generate_batch`, which samples and returns log-probabilities as they do."""
    workload = bench.workload().without_eos()
    steps, theirs = policy_steps(workload, rows, tokens), ContinuousBatching(workload, rows, tokens).generated_tokens
    return compared(compare(steps, theirs, repeats=bench.repeats, device=bench.device), "act", "generate_batch")


@measurement(Target(">=", 0.2), quick={"tokens": 32})
def stepping_ahead(bench: Bench, *, rows: int = 64, tokens: int = 64) -> Measured:
    """Compare the same steps where whole responses are decoded ahead (`decoder="ahead"`) with those of the slot cache.

    Of the two ways the second is for a CPU; the target says that the first one batches there at all.
    """
    workload = bench.workload().without_eos()
    ahead, slots = (policy_steps(workload, rows, tokens, decoder) for decoder in ("ahead", "slots"))
    return compared(compare(ahead, slots, repeats=bench.repeats, device=bench.device), "ahead", "slots")


def policy_steps(workload: Workload, rows: int, tokens: int, decoder: str = "slots") -> Work:
    """Sample `tokens` for each of `rows` prompts, step by step, from observations that grow by what was sampled."""
    task = workload.task(rows, tokens)
    policy = CausalLMActorCritic(
        workload.model,
        workload.tokenizer,
        max_length=task.max_prompt_tokens + task.max_new_tokens,
        decoder=decoder,
        response_tokens=tokens,
    )
    starts = torch.full((rows, policy.max_length), -1)
    for row, ids in enumerate(workload.prompt_ids(rows)):
        starts[row, : len(ids)] = torch.tensor(ids)
    starts = starts.to(workload.device)
    lengths = (starts >= 0).sum(dim=1)
    every_row = torch.arange(rows, device=workload.device)

    def step() -> int:
        observations = starts.clone()
        for drawn in range(tokens):
            observations[every_row, lengths + drawn] = policy.step(observations).tokens
        return rows * tokens

    return step


class ContinuousBatching:
    """`generate_batch` of `transformers`: rows of their own lengths over a paged cache, refilled from a queue.

    rows: prompts, all of them in the batch at once. max_new_tokens: of each response; no token ends one.
    """

    def __init__(self, workload: Workload, rows: int, max_new_tokens: int):
        self.workload = workload
        self._prompts: list[list[int]] = workload.prompt_ids(rows)
        longest = max(len(ids) for ids in self._prompts) + max_new_tokens
        self._generation = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=NO_TOKEN,
            pad_token_id=workload.tokenizer.pad_token_id,
        )
        self._batching = ContinuousBatchingConfig(
            return_logprobs=True,
            page_size=PAGE_TOKENS,
            num_blocks=rows * (longest // PAGE_TOKENS + 1),
            max_batch_tokens=rows * longest,
            max_requests_per_batch=rows,
            allow_block_sharing=False,  # it would run a prompt once that two rows have
        )

    def generated_tokens(self) -> int:
        """Generate; return the number of response tokens. Raises RuntimeError where a row got fewer than it should."""
        with errors_only("transformers"):
            outputs = self.workload.generator.generate_batch(
                self._prompts,
                generation_config=self._generation,
                continuous_batching_config=self._batching,
                progress_bar=False,
            )
        counts = [len(output.logprobs) for output in outputs.values()]
        if len(counts) != len(self._prompts) or set(counts) != {self._generation.max_new_tokens}:
            raise RuntimeError(f"generate_batch returned {counts} log-probabilities for {len(self._prompts)} prompts")
        return sum(counts)
