"""An actor-critic that samples within the top-p tokens of another model: NLPO's policy.

Ramamurthy et al. 2023, https://arxiv.org/abs/2210.01241. The mask is part of the distribution: log-probabilities,
entropies and the KL are those of what is sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from textrl_env.errors import ConfigError
from textrl_env.models.actor_critic import CausalLMActorCritic
from textrl_env.models.adapters import standalone
from textrl_env.models.causal_lm import CausalLM
from textrl_env.models.decoding.slot_decoder import SlotDecoder
from textrl_env.models.packing import PackedEpisodes, packed_states
from textrl_env.models.sampling import SamplingParams, scale, truncate
from textrl_env.models.storage.loading import load_model
from textrl_env.models.storage.pretrained import quiet_loading

MASK_FOLDER = "mask"  # in the policy's
# Subtracted from the logits of masked tokens. Not infinite: where a sequence is run as a whole, rounding can move the
# mask's edge by a token, which then keeps a finite log-probability. At e^-50 none is ever drawn.
PENALTY = 50.0


class MaskedActorCritic(CausalLMActorCritic):
    """CausalLMActorCritic within the top-p tokens of a frozen copy of its model, which is saved with it.

    mask_top_p: the smallest set of the copy's likeliest tokens whose probability reaches this is kept.
    mask_model: the copy; None takes one of `model` as it is.
    """

    def __init__(self, model: Any, tokenizer: Any, *, mask_top_p: float = 0.9, mask_model: Any = None, **settings: Any):
        if settings.get("decoder") == "ahead":
            raise ConfigError("decoder='ahead' decodes one model, and a masked policy draws from two: use 'slots'")
        super().__init__(model, tokenizer, **settings)
        if not 0 < mask_top_p < 1:
            raise ConfigError(f"mask_top_p must be between 0 and 1, got {mask_top_p!r}")
        self.mask_top_p = mask_top_p
        masking = copy.deepcopy(self.model) if mask_model is None else mask_model
        self.mask_model = masking.requires_grad_(False)
        self._mask_lm = CausalLM(self.mask_model, precision=settings.get("precision", "auto"))
        self._mask_decoder: SlotDecoder | None = None

    def update_mask(self) -> None:
        """Mask by the present policy from here on."""
        self.mask_model.load_state_dict(self.model.state_dict())

    def save_pretrained(self, folder: str | Path, *, method: str = "reinforcement learning") -> None:
        """As CausalLMActorCritic's, with the model that masks in `mask/`, which plain transformers loads too."""
        super().save_pretrained(folder, method=method)
        with quiet_loading():
            standalone(self.mask_model).save_pretrained(Path(folder) / MASK_FOLDER)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "mask_top_p": self.mask_top_p}

    @classmethod
    def _wrote(cls, settings: Mapping[str, Any]) -> bool:
        return "mask_top_p" in settings

    @classmethod
    def _saved_parts(cls, folder: Path, tokenizer: Any, *, device: str, dtype: str) -> dict[str, Any]:
        return {"mask_model": load_model(folder / MASK_FOLDER, tokenizer=tokenizer, device=device, dtype=dtype).model}

    def clear_cache(self) -> None:
        super().clear_cache()
        decoder: SlotDecoder | None = getattr(self, "_mask_decoder", None)  # none before the base class is built
        if decoder is not None:
            decoder.clear()
            self._mask_lm.drop_copies()

    def _features(self, shown: torch.Tensor | PackedEpisodes) -> torch.Tensor:
        """The language model's states, and behind them those of the model that masks: [M, 2 H]."""
        return torch.cat([super()._features(shown), self._masking_states(shown)], dim=-1)

    @torch.no_grad()
    def _masking_states(self, shown: torch.Tensor | PackedEpisodes) -> torch.Tensor:
        if isinstance(shown, PackedEpisodes):
            return packed_states(self._mask_lm, shown)
        if self._mask_decoder is None:
            self._mask_decoder = SlotDecoder(self._mask_lm, self.max_length, cache=self.cache)
        return self._mask_decoder.last_hidden(shown)

    def _own_states(self, features: torch.Tensor) -> torch.Tensor:
        return features[..., : self.lm.hidden_size]  # the rest is of the model that masks

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        own, masking = features.split(self.lm.hidden_size, dim=-1)
        with torch.no_grad():
            likely = truncate(
                scale(self._mask_lm.project(masking), self.sampling), SamplingParams(top_p=self.mask_top_p), self.banned
            )
        return self.lm.project(own) - PENALTY * torch.isinf(likely)
