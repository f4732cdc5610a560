"""Text from the grammar as batches of token ids: what the embedded policy is trained and measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from textrl_env.assets.grammar import derive_review, generate_dialogue, generate_fact

REVIEW_SHARE, DIALOGUE_SHARE = 0.8, 0.12  # facts are the rest
_IGNORE = -100


class Document(NamedTuple):
    kind: str  # "review", "dialogue" or "fact"
    ids: list[int]  # BOS ... EOS
    nats: float  # -log p of the derivation for a review, else NaN


class Batch(NamedTuple):
    input_ids: torch.Tensor  # int64 [B, T], right-padded; causal attention needs no mask then
    labels: torch.Tensor  # int64 [B, T], the same ids, -100 over the padding


def tokenizer_texts(rng: Random, count: int) -> Iterator[str]:
    """Text to learn the tokenizer from: `count` documents in the corpus's mixture, without control tokens."""
    for _ in range(count):
        kind = _kind(rng)
        if kind == "review":
            yield derive_review(rng)[0]
        elif kind == "fact":
            yield generate_fact(rng)
        else:
            yield from (f"{message['role']}\n{message['content']}" for message in generate_dialogue(rng))


def documents(rng: Random, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Document]:
    """`count` documents: `<|bos|> text <|endoftext|>`, a dialogue in the chat template."""
    drawn: list[tuple[str, str, float]] = []
    for _ in range(count):
        kind, nats = _kind(rng), float("nan")
        if kind == "review":
            text, nats = derive_review(rng)
        elif kind == "fact":
            text = generate_fact(rng)
        else:  # the template writes BOS itself, as does the tokenizer below: keep one
            chat = tokenizer.apply_chat_template(generate_dialogue(rng), tokenize=False)
            text = str(chat).removeprefix(str(tokenizer.bos_token))
        drawn.append((kind, text, nats))
    rows = tokenizer([text for _, text, _ in drawn]).input_ids
    return [
        Document(kind, [*ids, tokenizer.eos_token_id], nats) for (kind, _, nats), ids in zip(drawn, rows, strict=True)
    ]


def _kind(rng: Random) -> str:
    draw = rng.random()
    return "review" if draw < REVIEW_SHARE else "dialogue" if draw < REVIEW_SHARE + DIALOGUE_SHARE else "fact"


def collate(rows: Sequence[list[int]], pad: int) -> Batch:
    """Rows of ids as one right-padded batch."""
    width = max(map(len, rows))
    input_ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [_IGNORE] * (width - len(row)) for row in rows])
    return Batch(input_ids, labels)


def training_batches(rng: Random, tokenizer: PreTrainedTokenizerBase, tokens: int, limit: int) -> Iterator[Batch]:
    """Batches of fresh documents without end, each of about `tokens` ids, documents cut at `limit` ids.

    A batch holds documents of similar length, which saves padding, and as many as fill it: with a fixed number
    of rows, a mean over the batch would count a short document's tokens for more, and the model would end early.
    """
    while True:
        pool = sorted((document.ids[:limit] for document in documents(rng, tokenizer, 1024)), key=len)
        batches: list[list[list[int]]] = [[]]
        for row in pool:
            if (len(batches[-1]) + 1) * len(row) > tokens and batches[-1]:
                batches.append([])
            batches[-1].append(row)
        rng.shuffle(batches)
        yield from (collate(batch, tokenizer.eos_token_id) for batch in batches)
