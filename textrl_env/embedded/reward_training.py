"""Training of the embedded reward model: a smaller Llama with one label, on preference pairs."""

from __future__ import annotations

import math
from random import Random

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerBase

from textrl_env.embedded.corpus import collate
from textrl_env.embedded.preferences import Candidate
from textrl_env.embedded.training import CONTEXT, optimise

MARGIN = 0.05
"""Texts whose gold scores differ by no more make no pair, in training and in the stated accuracy."""
PROMPTS_A_STEP, TEXTS_A_PROMPT = 24, 6
LEARNING_RATE = 2e-3
CENTRING = 0.05


def new_reward_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForSequenceClassification:
    """An untrained reward model of 0.43M parameters: one label, a score of prompt + completion."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        id2label={0: "score"},
        label2id={"score": 0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForSequenceClassification(config)


def train_reward_model(
    tokenizer: PreTrainedTokenizerBase, pools: list[list[Candidate]], rng: Random, steps: int
) -> LlamaForSequenceClassification:
    """A reward model trained with the Bradley-Terry loss on the pools' pairs.

    Each step takes some prompts and some texts of each, and all pairs among a prompt's texts:
    loss = mean over pairs of -log sigmoid(r_better - r_worse) + CENTRING * (mean r of unspoilt texts)^2
    (Bradley and Terry 1952; as in Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 1).
    The loss does not fix the scores' level, so the second term centres it. Afterwards the head is scaled so
    that the policy's own texts have scores of standard deviation 1.
    """
    model = new_reward_model(tokenizer)
    encoded = [(_encode(tokenizer, [candidate.text for candidate in pool]), pool) for pool in pools]

    def loss() -> torch.Tensor:
        rows: list[list[int]] = []
        gold: list[list[float]] = []
        natural: list[bool] = []
        for ids, pool in rng.sample(encoded, PROMPTS_A_STEP):
            chosen = rng.sample(range(len(pool)), min(TEXTS_A_PROMPT, len(pool)))
            rows += [ids[i] for i in chosen]
            gold.append([pool[i].gold for i in chosen])
            natural += [pool[i].source != "spoilt" for i in chosen]
        target = torch.tensor(gold)  # [P, K]
        reward = _logits(model, tokenizer, rows, chunk=48).view_as(target)
        better = target[:, :, None] - target[:, None, :] > MARGIN  # [P, K, K]
        difference = (reward[:, :, None] - reward[:, None, :])[better]
        return -nn.functional.logsigmoid(difference).mean() + CENTRING * reward.flatten()[natural].mean() ** 2

    optimise(model, loss, steps=steps, learning_rate=LEARNING_RATE, label="reward")
    own = [candidate.text for pool in pools for candidate in pool if candidate.source == "policy"]
    spread = torch.tensor(score_texts(model, tokenizer, own)).std().item()
    with torch.no_grad():
        model.score.weight /= spread if math.isfinite(spread) and spread > 0 else 1.0
    return model


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, truncation=True, max_length=CONTEXT).input_ids)


def _logits(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], chunk: int
) -> torch.Tensor:
    """Scores [n] of rows of ids, differentiable; computed in chunks of similar length to save padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = []
    for start in range(0, len(order), chunk):
        part = [rows[i] for i in order[start : start + chunk]]
        # right-padded, so causal attention keeps the padding out; the model scores each row's last real token
        input_ids = collate(part, pad=tokenizer.pad_token_id).input_ids
        scores.append(model(input_ids=input_ids, use_cache=False).logits.squeeze(-1))
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__))
    return torch.cat(scores)[back]


@torch.inference_mode()
def score_texts(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[float]:
    """The reward model's score of each text (prompt + completion)."""
    return _logits(model, tokenizer, _encode(tokenizer, texts), chunk=128).tolist()
