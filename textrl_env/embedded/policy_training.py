"""Train the embedded policy, a small Llama, on the grammar's text, and measure how close it comes to it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from random import Random

import torch
from torch import nn
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from textrl_env.embedded.corpus import TURN_END, collate, documents, training_batches
from textrl_env.language.grammar import well_formed

CONTEXT = 512
TRAINED_LENGTH = 256
"""Longer documents are cut here in training; dialogues of three long answers are the only ones that are."""
BATCH_TOKENS = 2560
LEARNING_RATE = 4e-3
SAMPLE_ROWS = 256
"""Prompts that are completed in one batch."""


def optimise(
    model: nn.Module, loss: Callable[[], torch.Tensor], *, steps: int, learning_rate: float, label: str
) -> None:
    """`steps` updates of AdamW with warm-up and cosine decay; `loss()` gives each step's loss."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.95),
    )
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    model.train()
    with tqdm(range(steps), desc=label, unit="step", disable=None) as bar:
        for _ in bar:
            value = loss()
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
    model.eval()


def new_policy(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An untrained policy of 0.92M parameters, its generation settings filled in."""
    end_of_turn = tokenizer.convert_tokens_to_ids(TURN_END)
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=0, eos_token_id=[tokenizer.eos_token_id, end_of_turn], **ids
    )
    return model


def train_policy(tokenizer: PreTrainedTokenizerBase, rng: Random, steps: int) -> LlamaForCausalLM:
    """A policy trained on `steps` batches of fresh documents."""
    model = new_policy(tokenizer)
    batches = training_batches(rng, tokenizer, BATCH_TOKENS, TRAINED_LENGTH)

    def loss() -> torch.Tensor:
        batch = next(batches)
        logits = model(input_ids=batch.input_ids, use_cache=False).logits  # [B, T, V]
        targets = batch.labels[:, 1:].flatten()
        nats = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")
        return nats / BATCH_TOKENS  # not the batch's own count: every token weighs the same in every batch

    optimise(model, loss, steps=steps, learning_rate=LEARNING_RATE, label="policy")
    return model


@torch.inference_mode()
def held_out_losses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, rng: Random, count: int
) -> dict[str, float]:
    """Mean loss in nats a token on `count` fresh documents, by kind.

    `review_grammar` is the grammar's own on the same reviews: no model can do better on average.
    """
    nats: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    drawn = sorted(documents(rng, tokenizer, count), key=lambda document: len(document.ids))
    for start in range(0, len(drawn), 64):
        part = drawn[start : start + 64]
        batch = collate([document.ids[:CONTEXT] for document in part], tokenizer.eos_token_id)
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], reduction="none")
        for document, row in zip(part, losses.sum(dim=1).tolist(), strict=True):
            for kind in (document.kind, "all"):
                nats[kind] += row
                tokens[kind] += len(document.ids[:CONTEXT]) - 1
            if document.kind == "review":
                nats["review_grammar"] += document.nats
                tokens["review_grammar"] += len(document.ids) - 1
    return {kind: nats[kind] / tokens[kind] for kind in sorted(nats)}


@torch.inference_mode()
def sample_completions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], *, max_new_tokens: int = 128
) -> list[str]:
    """One completion of each prompt, sampled at temperature 1 from torch's global generator."""
    completions: list[str] = []
    for start in tqdm(range(0, len(prompts), SAMPLE_ROWS), desc="samples", unit="batch", disable=None, leave=False):
        inputs = tokenizer(prompts[start : start + SAMPLE_ROWS], return_tensors="pt", padding=True, padding_side="left")
        output = model.generate(  # type: ignore[misc]  # wrapped by an untyped decorator
            **inputs, max_new_tokens=max_new_tokens, do_sample=True, top_k=0
        )
        completions += tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return completions


def well_formed_share(reviews: list[str]) -> dict[str, float]:
    """Share of sentences that the grammar could have written there, and of reviews that are all such."""
    verdicts = [well_formed(review) for review in reviews]
    sentences = [verdict for review in verdicts for verdict in review]
    return {
        "sentences": sum(sentences) / max(1, len(sentences)),
        "reviews": sum(bool(review) and all(review) for review in verdicts) / max(1, len(verdicts)),
    }
