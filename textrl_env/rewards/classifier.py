"""Any Hugging Face sequence classifier as a reward."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textrl_env.errors import ConfigError, RewardError
from textrl_env.models.storage.loading import resolve_device, resolve_dtype
from textrl_env.rewards.classifier_loading import (
    label_index,
    load_classifier,
    load_tokenizer,
    longest_input,
    settle_padding,
)
from textrl_env.rewards.protocol import Scores, Text, completion_text
from textrl_env.text.tokenization import encode_chat

# Below this many texts, waking the tokenizer's thread pool costs more than it saves.
FEW_TEXTS = 16


class ClassifierReward:
    """The logit that a sequence classifier gives to prompt + response.

    Text prompts are read as `prompt + completion`, with the special tokens that the classifier's tokenizer
    adds; chats through its chat template (the messages' texts joined by newlines where it has none). Control
    tokens that a text spells are read as plain text, so a response cannot slip one to the classifier. Texts that
    are too long lose their beginning.

    The classifier is frozen and stays on its device. Rows are sorted by length into batches, so that little
    is padded, and n scores come back in one transfer.

    model: a folder, a Hugging Face id, or a loaded classifier (which is frozen and put into eval mode).
    tokenizer: a folder, an id or a loaded tokenizer (which is copied); by default the one in the model's folder.
    device: `"auto"` (a GPU where there is one; a loaded classifier stays where it is) or a torch device.
    dtype: `"auto"` (the checkpoint's own on a GPU, float32 on a CPU; a loaded classifier keeps its own), `"float32"`,
        `"bfloat16"`, `"float16"` or a torch dtype. Scores are float32 logits in any case.
    batch_size: rows of one forward pass.
    label: the label whose logit is the score, by name or index; needed where the classifier has several.
    max_length: tokens of a row; by default what the tokenizer and the model allow.

    Raises ModelError where the folder is missing, has no tokenizer, or has no trained classification head; UnknownName
    for a label, device or dtype that there is not; and ConfigError where `label` is needed or another argument cannot
    work.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | torch.nn.Module,
        tokenizer: Any = None,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        batch_size: int = 64,
        label: str | int | None = None,
        max_length: int | None = None,
    ):
        for argument, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{argument} must be an integer >= 1, got {value!r}")
        place = resolve_device(device)
        kind = resolve_dtype(dtype, place)
        if isinstance(model, torch.nn.Module):
            if tokenizer is None:
                raise ConfigError("a loaded classifier needs its tokenizer too: ClassifierReward(model, tokenizer)")
            own_tokenizer = load_tokenizer(tokenizer)
            self.__name__ = type(model).__name__
            loaded = model if dtype == "auto" else model.to(kind)
            loaded = loaded if device == "auto" else loaded.to(place)
        else:
            own_tokenizer = load_tokenizer(model if tokenizer is None else tokenizer)
            self.__name__ = Path(model).name
            loaded = load_classifier(model, kind).to(place)
        self.model: Any = loaded.requires_grad_(False).eval()
        self.device = next(self.model.parameters()).device
        self.tokenizer = own_tokenizer
        self.batch_size = batch_size
        self.label = label_index(self.model.config, label)
        self.max_length = max_length or longest_input(self.model.config, self.tokenizer)
        self._pad_id = settle_padding(self.model.config, self.tokenizer)
        if hasattr(self.model.config, "use_cache"):
            self.model.config.use_cache = False  # nothing is generated: keys and values need not be kept
        self._backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_padding()
            self._backend.no_truncation()
            self._backend.encode_special_tokens = True  # means: spelled special tokens are encoded as text

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """One logit per completion; see the class."""
        return list(map(float, self._logits(prompts, completions)))

    def detailed(self, prompts: list[Any], completions: list[Any], **columns: Any) -> Scores:
        """The same logits as float64 [n]; a classifier has no components."""
        return Scores(self._logits(prompts, completions).astype(np.float64), {})

    @torch.inference_mode()
    def _logits(self, prompts: list[Text], completions: list[Text]) -> np.ndarray:
        """float32 [n]."""
        if not completions:
            return np.empty(0, dtype=np.float32)
        if self.model.training:  # a loaded classifier is shared with whoever loaded it
            self.model.eval()
        rows = self._encode(prompts, completions)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        size = self.batch_size if self._pad_id is not None else 1
        logits = [self._forward([rows[i] for i in order[start : start + size]]) for start in range(0, len(rows), size)]
        ordered = (logits[0] if len(logits) == 1 else torch.cat(logits)).cpu().numpy()
        scores = np.empty_like(ordered)
        scores[order] = ordered
        return scores

    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        """The label's logits of one batch, float32 [b], left on the device. `rows` are sorted by length."""
        inputs = np.zeros((2, len(rows), len(rows[-1])), dtype=np.int64)  # ids and mask, in one transfer
        inputs[0] = self._pad_id or 0
        for index, row in enumerate(rows):
            inputs[0, index, : len(row)] = row
            inputs[1, index, : len(row)] = 1
        input_ids, mask = torch.from_numpy(inputs).to(self.device)
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=mask).logits[:, self.label]
        return logits.float()

    def _encode(self, prompts: list[Text], completions: list[Text]) -> list[list[int]]:
        """The ids of each row, 1 to `max_length` of them."""
        texts: list[str] = []
        chats: dict[int, list[int]] = {}
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if isinstance(prompt, str):
                texts.append(prompt + completion_text(completion))
            elif self.tokenizer.chat_template is None:
                texts.append("\n".join([*(m["content"] for m in prompt), completion_text(completion)]))
            else:
                chats[index] = encode_chat(self.tokenizer, prompt, answer=completion_text(completion))
        encoded = iter(self._encode_texts(texts))
        rows = [chats[i] if i in chats else next(encoded) for i in range(len(completions))]
        return [self._fitted(row, index) for index, row in enumerate(rows)]

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is not None:
            # `encode_chat` goes through the tokenizer and may have set it to the opposite.
            self._backend.encode_special_tokens = True
            if len(texts) < FEW_TEXTS:
                return [self._backend.encode(text).ids for text in texts]
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        rows = self.tokenizer(texts, split_special_tokens=True, return_attention_mask=False, verbose=False)
        return list(rows["input_ids"])

    def _fitted(self, row: list[int], index: int) -> list[int]:
        if not row:
            stand_in = self.tokenizer.bos_token_id
            if stand_in is None:
                stand_in = self.tokenizer.eos_token_id
            if stand_in is None:
                raise RewardError(
                    f"reward {self.__name__!r} got an empty text as sample {index}, and its tokenizer "
                    "has neither a BOS nor an EOS token to read in its place"
                )
            return [stand_in]
        excess = len(row) - self.max_length
        if excess <= 0:
            return row
        kept = 1 if self.max_length > 1 and row[0] in self.tokenizer.all_special_ids else 0  # BOS or [CLS]
        return row[:kept] + row[kept + excess :]

    def __repr__(self) -> str:
        return f"ClassifierReward({self.__name__!r}, label={self.label}, device={str(self.device)!r})"
