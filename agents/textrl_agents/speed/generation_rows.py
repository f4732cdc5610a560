"""Rows on generation: rollouts and stepping against `model.generate`."""

from __future__ import annotations

import torch

from textrl_agents.speed.measurement import Bench, Measured, Target, compared, measurement
from textrl_agents.speed.timing import compare
from textrl_agents.speed.transformers_baseline import TransformersRollout
from textrl_env.models import CausalLMActorCritic


@measurement(Target(">=", 1.0), quick={"tokens": 32})
def rollout_of_equal_lengths(bench: Bench, *, rows: int = 64, tokens: int = 64) -> Measured:
    """Compare stock PPO's rollout (policy, environment, scores, buffer, deferred KL) with plain `transformers`, no EOS.

    tokens: of each response.
    """
    workload = bench.workload().without_eos()
    ours = workload.agent(rows, tokens, tokens).collect
    theirs = TransformersRollout(workload, rows, tokens).rollout
    return compared(compare(ours, theirs, repeats=bench.repeats, device=bench.device), "rollout", "by hand")


@measurement(Target(">=", 2.5), quick={"n_steps": 32})
def rollout_to_eos(bench: Bench, *, rows: int = 64, longest: int = 128, n_steps: int = 64) -> Measured:
    """Compare the same where responses end by the model's own EOS; only real tokens are counted.

    longest: tokens of a response at most. n_steps: of a rollout.
    """
    workload = bench.workload()
    ours = workload.agent(rows, n_steps, longest).collect
    theirs = TransformersRollout(workload, rows, longest).rollout
    return compared(compare(ours, theirs, repeats=bench.repeats, device=bench.device), "rollout", "by hand")


@measurement(Target(">=", 1.0), quick={"tokens": 32})
def stepping(bench: Bench, *, rows: int = 64, tokens: int = 64) -> Measured:
    """Compare `CausalLMActorCritic.act` on growing observations with `model.generate`, equal lengths."""
    workload = bench.workload().without_eos()
    task = workload.task(rows, tokens)
    policy = CausalLMActorCritic(
        workload.model, workload.tokenizer, max_length=task.max_prompt_tokens + task.max_new_tokens
    )
    prompts = [torch.tensor(ids) for ids in workload.tokenizer(workload.batch(rows))["input_ids"]]
    starts = torch.full((rows, policy.max_length), -1)
    for row, ids in enumerate(prompts):
        starts[row, : len(ids)] = ids
    starts = starts.to(bench.device)
    lengths = (starts >= 0).sum(dim=1)
    every_row = torch.arange(rows, device=bench.device)

    def step() -> int:
        observations = starts.clone()
        for drawn in range(tokens):
            observations[every_row, lengths + drawn] = policy.step(observations).tokens
        return rows * tokens

    generate = TransformersRollout(workload, rows, tokens).generated_tokens
    return compared(compare(step, generate, repeats=bench.repeats, device=bench.device), "act", "generate")
