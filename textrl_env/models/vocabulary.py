"""Which ids a model can emit, which of them its tokenizer knows, and which end a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from textrl_env.errors import ModelError, TokenizerMismatch
from textrl_env.text.tokenization import end_of_turn


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The action space's contents.

    size: V, what the head can emit.
    eos_ids: int64, the ids that end a response: the tokenizer's EOS, those of the generation config, and what the chat
        template writes behind an answer. Empty where the model has none.
    known: bool [V], False for ids of the head that the tokenizer does not know, and for the `suppress_tokens` of the
        generation config, which plain transformers does not sample either. They are never sampled.
    """

    size: int
    eos_ids: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Vocabulary:
        """Read off a Hugging Face causal LM and its tokenizer.

        Heads are often padded to a round number, so a head larger than the tokenizer is ordinary: the surplus is
        masked. A tokenizer with ids that the head cannot emit is another model's, and refused.
        """
        head = model.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(model).__name__} has no language-model head; a decoder-only causal LM is needed")
        size = int(head.weight.shape[0])
        ids = np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64)
        if ids.max(initial=-1) >= size:
            raise TokenizerMismatch(
                f"the tokenizer has ids up to {ids.max()}, but the model's head emits only {size} tokens. "
                "They do not belong together: load the tokenizer saved with this model, or resize the model's "
                "embeddings to len(tokenizer) first."
            )
        known = np.zeros(size, dtype=bool)
        known[ids] = True
        generation = getattr(model, "generation_config", None)
        known[[int(i) for i in getattr(generation, "suppress_tokens", None) or () if 0 <= i < size]] = False
        eos = [tokenizer.eos_token_id]
        configured = getattr(generation, "eos_token_id", None)
        eos += configured if isinstance(configured, (list, tuple)) else [configured]
        eos.append(end_of_turn(tokenizer))
        eos_ids = np.array(sorted({int(i) for i in eos if i is not None and i < size}), dtype=np.int64)
        return cls(size, eos_ids, known)

    def banned(self, device: torch.device) -> torch.Tensor | None:
        """bool [V] on `device`, True where an id must never be sampled; None where all may."""
        return None if self.known.all() else torch.from_numpy(~self.known).to(device)
