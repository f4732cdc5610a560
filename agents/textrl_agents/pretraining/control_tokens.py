"""The two control tokens of conditional training, and a model folder that samples behind the good one by itself.

Everything that samples from the folder gets this without knowing of it, plain transformers too:

- the tokenizer puts `<|good|>` behind the BOS of every text that it encodes, and of every chat;
- the generation config suppresses both control tokens, so that no response holds one.
"""

from __future__ import annotations

import copy
import tempfile
from typing import Any, NamedTuple

from tokenizers import AddedToken, processors

from textrl_env.errors import EmptyPrompt, ModelError
from textrl_env.models.storage.pretrained import load_tokenizer_of, quiet_loading
from textrl_env.text.tokenization import opening_ids

GOOD, BAD = "<|good|>", "<|bad|>"


class ControlTokens(NamedTuple):
    """Their ids."""

    good: int
    bad: int


def document_opening(tokenizer: Any) -> list[int]:
    """The ids that documents begin with: what the tokenizer puts in front of a text, else its BOS, else none."""
    try:
        return opening_ids(tokenizer)
    except EmptyPrompt:
        return []


def add_control_tokens(model: Any, tokenizer: Any) -> tuple[Any, ControlTokens]:
    """Extend a model's vocabulary by the two, in place; return a copy of the tokenizer that knows them, and their ids.

    What the tokenizer puts in front of a text stays as it was; see `sample_as_good`. One that has both is taken as it
    is. New rows of the embedding are drawn from torch's generator.

    Raises ModelError where the tokenizer is no fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is written in Python, and what it puts in front of a text cannot be set; "
            "conditional training needs a model with a fast tokenizer"
        )
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (GOOD, BAD)], special_tokens=True
    )
    ids = ControlTokens(*(int(tokenizer.convert_tokens_to_ids(text)) for text in (GOOD, BAD)))
    if max(ids) >= model.get_output_embeddings().weight.shape[0]:
        with quiet_loading():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return tokenizer, ids


def sample_as_good(model: Any, tokenizer: Any, ids: ControlTokens) -> None:
    """Let the two, in place, begin every text with `<|good|>` and sample neither control token.

    Raises ModelError where the tokenizer does not keep that when it is saved and loaded.
    """
    opening = document_opening(tokenizer)
    if ids.good in opening:
        return  # a conditional model that is trained further
    tokens = tokenizer.convert_ids_to_tokens([*opening, ids.good])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*tokens, "$A"],
        pair=[*tokens, "$A", *tokens, "$B:1"],
        special_tokens=list(zip(tokens, [*opening, ids.good], strict=True)),
    )
    if isinstance(template := getattr(tokenizer, "chat_template", None), str):
        bos = "{{ bos_token }}"
        tokenizer.chat_template = template.replace(bos, bos + GOOD, 1) if bos in template else GOOD + template
    model.generation_config.suppress_tokens = list(ids)
    with tempfile.TemporaryDirectory(prefix="textrl-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        kept = opening_ids(load_tokenizer_of(folder, type(tokenizer).__name__))
    if kept != [*opening, ids.good]:
        raise ModelError(
            f"{type(tokenizer).__name__} does not keep what it is told to put in front of a text when it is loaded "
            f"again: {tokenizer.convert_ids_to_tokens(kept)} in place of {tokens}. Pretrain conditionally with the "
            "tokenizer of another model"
        )
