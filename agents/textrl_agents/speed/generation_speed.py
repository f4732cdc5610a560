"""Rollouts and stepping against `model.generate`."""

from __future__ import annotations

import torch

from textrl_agents.speed.timing import Comparison, compare
from textrl_agents.speed.transformers_baseline import ByHand
from textrl_agents.speed.workload import Subject
from textrl_env.models import CausalLMActorCritic


def rollout_equal_lengths(subject: Subject, *, rows: int, tokens: int, repeats: int) -> Comparison:
    """Stock PPO's rollout (policy, environment, scores, buffer, deferred KL) against the same by hand, no EOS."""
    endless = subject.without_eos()
    agent = endless.agent(rows, tokens, tokens)
    by_hand = ByHand(endless, rows, tokens)
    return compare(agent.collect, by_hand.rollout, repeats=repeats, device=subject.device)


def rollout_to_eos(subject: Subject, *, rows: int, tokens: int, n_steps: int, repeats: int) -> Comparison:
    """The same where responses end by the model's own EOS, after at most `tokens`; real tokens alone are counted."""
    agent = subject.agent(rows, n_steps, tokens)
    by_hand = ByHand(subject, rows, tokens)
    return compare(agent.collect, by_hand.rollout, repeats=repeats, device=subject.device)


def stepping(subject: Subject, *, rows: int, tokens: int, repeats: int) -> Comparison:
    """`CausalLMActorCritic.act` on growing observations against `model.generate`, equal lengths."""
    endless = subject.without_eos()
    task = endless.task(rows, tokens)
    policy = CausalLMActorCritic(
        endless.model, endless.tokenizer, max_length=task.max_prompt_tokens + task.max_new_tokens
    )
    prompts = [torch.tensor(ids) for ids in endless.tokenizer(endless.batch(rows))["input_ids"]]
    starts = torch.full((rows, policy.max_length), -1)
    for row, ids in enumerate(prompts):
        starts[row, : len(ids)] = ids
    starts = starts.to(subject.device)
    lengths = (starts >= 0).sum(dim=1)
    every_row = torch.arange(rows, device=subject.device)

    def step() -> int:
        observations = starts.clone()
        for drawn in range(tokens):
            observations[every_row, lengths + drawn] = policy.step(observations).tokens
        return rows * tokens

    return compare(step, ByHand(endless, rows, tokens).generated_tokens, repeats=repeats, device=subject.device)
