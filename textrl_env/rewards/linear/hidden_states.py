"""Pooled hidden states of a frozen model as features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from textrl_env.errors import ConfigError, ModelError
from textrl_env.foreign_text import shown
from textrl_env.models.storage.embedded import asset_folder
from textrl_env.models.storage.loading import EMBEDDED, resolve_device, resolve_dtype
from textrl_env.models.storage.pretrained import first_lines, load_pretrained, local_files_only, quiet_loading
from textrl_env.rewards.classifier_loading import load_tokenizer, longest_input, model_source, settle_padding
from textrl_env.rewards.encoding import ConversationEncoder, batches_by_length, padded
from textrl_env.user_values import POOLINGS, whole_number


class HiddenStates:
    """A model's hidden states of prompt + response, pooled into one vector.

    model: "embedded", a folder, a Hugging Face id or a loaded model: a causal LM or a classifier, whose head is not
        used. A loaded one is frozen and put into eval mode.
    tokenizer: a folder, an id or a loaded tokenizer; by default the one beside the model.
    pooling: "response" (the mean over the response's tokens, which have read the prompt; where it has none, the last
        token), "all" (the mean over prompt and response) or "last" (the last token).
    layers: how many of the model's first layers are kept; None keeps all. States are those after the last one that is
        kept, and the final norm. Layers in the middle often tell more about the meaning of a text than the last one,
        which is about the next token (Skean et al. 2025, https://arxiv.org/abs/2502.02013), and cost less.
    device, dtype, batch_size, max_length: as of `ClassifierReward`.

    Raises ModelError where there is no such model, and ConfigError for another argument that cannot work.
    """

    kind: ClassVar[str] = "hidden_states"

    def __init__(
        self,
        model: str | os.PathLike[str] | torch.nn.Module = EMBEDDED,
        tokenizer: Any = None,
        *,
        pooling: str = "response",
        layers: int | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        batch_size: int = 64,
        max_length: int | None = None,
    ):
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}, got {shown(pooling)}")
        place = resolve_device(device)
        kind = resolve_dtype(dtype, place)
        if isinstance(model, torch.nn.Module):
            if layers is not None:
                raise ConfigError("layers are kept of a model in files; a loaded one is as whoever loaded it wants it")
            if tokenizer is None:
                raise ConfigError("a loaded model needs its tokenizer too: HiddenStates(model, tokenizer)")
            if hasattr(model, "peft_config"):
                raise ConfigError("a model with an adapter is no plain model: call merge_and_unload() first")
            self.name = type(model).__name__
            trunk: Any = getattr(model, "base_model", model)
            trunk = trunk if device == "auto" else trunk.to(place)
            trunk = trunk if dtype == "auto" else trunk.to(kind)
        else:
            source = str(asset_folder("policy")) if model == EMBEDDED else model_source(model)
            tokenizer = source if tokenizer is None else tokenizer
            self.name = Path(source).name
            trunk = _load_trunk(source, kind, layers).to(place)
        self.model = trunk.requires_grad_(False).eval()
        self.tokenizer = load_tokenizer(tokenizer)
        self.device = next(self.model.parameters()).device
        self.pooling, self.batch_size = pooling, whole_number("batch_size", batch_size)
        longest = longest_input(self.model.config, self.tokenizer)
        self.max_length = longest if max_length is None else min(longest, whole_number("max_length", max_length))
        self._pad_id = settle_padding(self.model.config, self.tokenizer)
        self._encode = ConversationEncoder(self.tokenizer, self.max_length, self.name)
        self.size = int(self.model.config.get_text_config().hidden_size)

    @torch.inference_mode()
    def __call__(self, prompts: list[Any], completions: list[Any]) -> np.ndarray:
        """float32 [n, hidden size]."""
        self.model.eval()  # a loaded model is shared with whoever loaded it
        whole = self._encode.whole(prompts, completions)
        rows, counts = self._encode.cut(whole), self._pooled_counts(whole, prompts)
        features = np.empty((len(rows), self.size), dtype=np.float32)
        for batch in batches_by_length(rows, self.batch_size if self._pad_id is not None else 1):
            features[batch] = self._forward([rows[i] for i in batch], [counts[i] for i in batch])
        return features

    def _pooled_counts(self, rows: list[list[int]], prompts: list[Any]) -> list[int]:
        """How many of each row's last tokens are pooled; a row that is shorter is pooled whole."""
        if self.pooling == "last":
            return [1] * len(rows)
        if self.pooling == "all":
            return [max(1, len(row)) for row in rows]
        # The tokenizer may join the prompt's last letters with the response's first: the response has a token less.
        before = self._encode.prompt_lengths(prompts)
        return [max(1, len(row) - ids) for row, ids in zip(rows, before, strict=True)]

    def _forward(self, rows: list[list[int]], counts: list[int]) -> np.ndarray:
        """Pooled hidden states of one batch, float32 [b, d]."""
        input_ids, mask = torch.from_numpy(padded(rows, self._pad_id or 0)).to(self.device)
        states = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state.float()  # (b, t, d)
        lengths = mask.sum(dim=1)
        place = torch.arange(mask.shape[1], device=self.device)  # (t,)
        first = lengths - torch.tensor(counts, device=self.device)
        pooled = (place >= first[:, None]) & (place < lengths[:, None])  # (b, t)
        sums = torch.where(pooled[:, :, None], states, 0.0).sum(dim=1)
        means: np.ndarray = (sums / pooled.sum(dim=1, keepdim=True)).cpu().numpy()
        return means

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the model and its tokenizer into `folder/trunk`, so that the features need nothing else."""
        with quiet_loading():
            self.model.save_pretrained(folder / "trunk")
        self.tokenizer.save_pretrained(folder / "trunk")
        return {"kind": self.kind, "pooling": self.pooling, "max_length": self.max_length}

    def __repr__(self) -> str:
        return f"HiddenStates({self.name!r}, pooling={self.pooling!r}, device={str(self.device)!r})"


def _load_trunk(source: str, dtype: torch.dtype | str, layers: int | None = None) -> Any:
    """A model without its head, and without the layers after the first `layers`.

    Raises ModelError where its files have not all of its weights, ConfigError where it has fewer layers.
    """
    kept = {} if layers is None else _first_layers(source, layers)
    trunk, missing = load_pretrained(AutoModel, source, dtype, kind="model", **kept)
    missing = [name for name in missing if "pooler" not in name]  # BERT's, which hidden states do not go through
    if missing:
        raise ModelError(
            f"model {shown(source, 300)} is not whole: its files have no weights for {', '.join(missing[:3])}"
        )
    return trunk


def _first_layers(source: str, layers: int) -> dict[str, Any]:
    """What the configuration of a model says once it has its first layers alone. Raises ConfigError, ModelError."""
    whole_number("layers", layers)
    here = local_files_only(source)
    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=here)
    except Exception as error:  # any of a dozen types: OSError, ValueError, KeyError, ...
        raise ModelError(f"the configuration of {shown(source, 300)} cannot be read: {first_lines(error)}") from error
    count = getattr(config, "num_hidden_layers", None)
    if count is None:
        raise ConfigError(f"model {shown(source, 300)} does not say how many layers it has; leave layers out")
    if layers > count:
        raise ConfigError(f"layers must be at most {count}, those of the model {shown(source, 300)}; got {layers}")
    kept: dict[str, Any] = {"num_hidden_layers": layers}
    if types := getattr(config, "layer_types", None):  # of models whose layers attend in different ways
        kept["layer_types"] = list(types)[:layers]
    return kept
