"""Any Hugging Face sequence classifier as a reward."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textrl_env.errors import ConfigError
from textrl_env.models.storage.loading import resolve_device, resolve_dtype
from textrl_env.rewards.classifier_loading import (
    label_index,
    load_classifier,
    load_tokenizer,
    longest_input,
    settle_padding,
)
from textrl_env.rewards.encoding import ConversationEncoder, batches_by_length, padded
from textrl_env.rewards.protocol import Scores, Text


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
        self._encode = ConversationEncoder(self.tokenizer, self.max_length, self.__name__)

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
        batches = batches_by_length(rows, self.batch_size if self._pad_id is not None else 1)
        logits = [self._forward([rows[index] for index in batch]) for batch in batches]
        ordered = (logits[0] if len(logits) == 1 else torch.cat(logits)).cpu().numpy()
        scores = np.empty_like(ordered)
        scores[[index for batch in batches for index in batch]] = ordered
        return scores

    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        """The label's logits of one batch, float32 [b], left on the device."""
        input_ids, mask = torch.from_numpy(padded(rows, self._pad_id or 0)).to(self.device)
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=mask).logits[:, self.label]
        return logits.float()

    def __repr__(self) -> str:
        return f"ClassifierReward({self.__name__!r}, label={self.label}, device={str(self.device)!r})"
