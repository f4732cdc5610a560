"""Teach the embedded policy to take turns: the model that the tasks with several turns start from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from textrl_env.embedded.corpus import TURN_END, documents
from textrl_env.embedded.policy_training import BATCH_TOKENS, optimise
from textrl_env.embedded.turn_corpus import PLAYERS, Lesson, Messages, episodes, lesson
from textrl_env.text.tokenization import encode_chat
from textrl_env.turns.seeds import split_seed

LEARNING_RATE = 2e-3
REHEARSED = 0.15
"""The share of documents from the policy's own training text, so that it forgets little of it."""
LONGEST = 256
MOST_TOKENS = 48
"""Of a reply, where the model is measured."""
_IGNORE = -100


def train_turn_taking(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, rng: Random, steps: int
) -> LlamaForCausalLM:
    """Return a copy of the policy that has learned from `steps` batches of fresh episodes."""
    model = copy.deepcopy(policy)
    batches = lesson_batches(rng, tokenizer)

    def loss() -> torch.Tensor:
        input_ids, labels = next(batches)
        logits = model(input_ids=input_ids, use_cache=False).logits  # [B, T, V]
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    optimise(model, loss, steps=steps, learning_rate=LEARNING_RATE, label="turns")
    return model


def lesson_batches(rng: Random, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of about `BATCH_TOKENS` ids without end: ids and labels, int64 [B, T], right-padded.

    A label is -100 where nothing is taught. Lessons of similar length share a batch, which saves padding.
    """
    played = episodes(rng)
    while True:
        pool = [lesson(tokenizer, next(played)) for _ in range(384)]
        rehearsed = documents(rng, tokenizer, round(len(pool) * REHEARSED / (1 - REHEARSED)))
        pool += [Lesson(document.ids[:LONGEST], [True] * len(document.ids[:LONGEST])) for document in rehearsed]
        pool.sort(key=lambda each: len(each.ids))
        batches: list[list[Lesson]] = [[]]
        for each in pool:
            if (len(batches[-1]) + 1) * len(each.ids) > BATCH_TOKENS and batches[-1]:
                batches.append([])
            batches[-1].append(each)
        rng.shuffle(batches)
        for batch in batches:
            width = max(len(each.ids) for each in batch)
            ids, labels = torch.full((len(batch), width), tokenizer.eos_token_id), torch.full((len(batch), width), -100)
            for row, each in enumerate(batch):
                ids[row, : len(each.ids)] = torch.tensor(each.ids)
                taught = [token if learn else _IGNORE for token, learn in zip(each.ids, each.taught, strict=True)]
                labels[row, : len(each.ids)] = torch.tensor(taught)
            yield ids, labels


@torch.inference_mode()
def turn_metrics(
    task: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, count: int, *, seed: int
) -> dict[str, Any]:
    """What the model scores in `count` sampled episodes of a task with held-out hidden states."""
    torch.manual_seed(seed)
    games = [PLAYERS[task].environment() for _ in range(count)]
    talks: list[Messages] = []
    for number, game in enumerate(games):
        system = getattr(game, "system_prompt", None)
        said, _ = game.reset(split_seed("heldout", number))
        talks.append([*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": said}])
    scores, successes, running = [0.0] * count, [False] * count, list(range(count))
    while running:
        replies = _replies(model, tokenizer, [talks[row] for row in running])
        still = []
        for row, reply in zip(running, replies, strict=True):
            said, reward, over, _, info = games[row].step(reply)
            scores[row] += reward
            talks[row] += [{"role": "assistant", "content": reply}]
            if over:
                successes[row] = bool(info["success"])
            else:
                talks[row] += [{"role": "user", "content": said}]
                still.append(row)
        running = still
    return {
        "score": {"mean": fmean(scores)},
        "success": {"mean": fmean(successes)},
        "samples": [[message["content"] for message in talk] for talk in talks[:3]],
    }


def _replies(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, talks: list[Messages]) -> list[str]:
    """Sample a reply to each conversation at temperature 1."""
    rows = [encode_chat(tokenizer, talk) for talk in talks]
    inputs = tokenizer.pad({"input_ids": rows}, padding=True, padding_side="left", return_tensors="pt")
    output = model.generate(  # type: ignore[misc]  # wrapped by an untyped decorator
        **inputs,
        max_new_tokens=MOST_TOKENS,
        do_sample=True,
        top_k=0,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)],
    )
    return list(tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True))
