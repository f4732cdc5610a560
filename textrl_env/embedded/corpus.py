"""The training text, reviews for the most part; the tokenizer that is learned from it; and its batches of token ids.

The embedded policy is trained and measured on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textrl_env.language.grammar import derive_review, generate_dialogue, generate_fact
from textrl_env.tasks.registry import built_in_formats

FORMATS = {name: form for name, form in built_in_formats().items() if form.share > 0}
"""Name of a task -> its format, of the formats that are in the training text."""
SHARES = MappingProxyType(
    {"review": 0.43, "chat": 0.027, "fact": 0.02, **{name: form.share for name, form in FORMATS.items()}}
)
"""Kind of a document -> its share of the documents; more than half of the tokens are in reviews.

Kinds are drawn by their place in this order, so another order would give another text, and other embedded models.
"""
_IGNORE = -100

VOCABULARY = 1024
BOS, EOS = "<|bos|>", "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (  # ChatML, with BOS in front as the model was trained
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Document(NamedTuple):
    """One document of the training text."""

    kind: str  # one of SHARES
    ids: list[int]  # BOS ... EOS
    nats: float  # -log p of the derivation for a review, else NaN


class Batch(NamedTuple):
    """Rows of token ids and what each position predicts."""

    input_ids: torch.Tensor  # int64 [B, T], right-padded; causal attention needs no mask then
    labels: torch.Tensor  # int64 [B, T], the same ids, -100 over the padding


def tokenizer_texts(rng: Random, count: int) -> Iterator[str]:
    """Text to learn the tokenizer from: `count` documents in the corpus's mixture, without control tokens."""
    for _ in range(count):
        text, _ = _draw(rng, _kind(rng))
        if isinstance(text, str):
            yield text
        else:
            yield from (f"{message['role']}\n{message['content']}" for message in text)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of `VOCABULARY` ids, learned from `texts`.

    BOS goes in front of every text by itself. `<|endoftext|>` is both the end of text and the padding.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        extra_special_tokens=[TURN_START, TURN_END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def documents(rng: Random, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Document]:
    """`count` documents: `<|bos|> text <|endoftext|>`, a chat in the chat template."""
    drawn: list[tuple[str, str, float]] = []
    for _ in range(count):
        kind = _kind(rng)
        text, nats = _draw(rng, kind)
        drawn.append((kind, text if isinstance(text, str) else chat_text(tokenizer, text), nats))
    rows = tokenizer([text for _, text, _ in drawn]).input_ids
    return [
        Document(kind, [*ids, tokenizer.eos_token_id], nats) for (kind, _, nats), ids in zip(drawn, rows, strict=True)
    ]


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], *, to_answer: bool = False) -> str:
    """A chat in the template, without the BOS that the tokenizer writes in front of every text by itself.

    to_answer: end it where the assistant's answer begins.
    """
    chat = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=to_answer)
    return str(chat).removeprefix(str(tokenizer.bos_token))


def _kind(rng: Random) -> str:
    return rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]


def _draw(rng: Random, kind: str) -> tuple[str | list[dict[str, str]], float]:
    """A document of that kind as text or messages, and `-log p` of it for a review, else NaN."""
    if kind == "review":
        return derive_review(rng)
    if kind == "chat":
        return generate_dialogue(rng), float("nan")
    if kind == "fact":
        return generate_fact(rng), float("nan")
    row = FORMATS[kind].draw(rng)
    prompt, answer = row["prompt"], FORMATS[kind].answer(rng, row)
    if isinstance(prompt, str):
        return prompt + answer, float("nan")
    return [*prompt, {"role": "assistant", "content": answer}], float("nan")


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
