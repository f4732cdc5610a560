"""An actor-critic that samples within the top-p tokens of another model: NLPO's policy.

Ramamurthy et al. 2023, https://arxiv.org/abs/2210.01241. The mask is part of the distribution: log-probabilities,
entropies and the KL are those of what is sampled.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from textrl_env.errors import ConfigError
from textrl_env.models.actor_critic import CausalLMActorCritic, standalone
from textrl_env.models.causal_lm import CausalLM
from textrl_env.models.decoder import SlotDecoder
from textrl_env.models.packing import PackedEpisodes, state_hidden
from textrl_env.models.sampling import SamplingParams, scale, truncate
from textrl_env.models.storage.quiet import quiet_loading

MASK_FOLDER = "mask"  # in the policy's
# Subtracted from the logits of masked tokens. Not infinite, because the mask's edge can fall elsewhere in the last bit
# when a sequence is run as a whole: such a token keeps a finite log-probability, and none is ever drawn at e^-50.
PENALTY = 50.0


class MaskedActorCritic(CausalLMActorCritic):
    """CausalLMActorCritic within the top-p tokens of a frozen copy of its model, which is saved with it.

    mask_top_p: the smallest set of the copy's likeliest tokens whose probability reaches this is kept.
    mask_model: the copy; None takes one of `model` as it is.
    """

    def __init__(self, model: Any, tokenizer: Any, *, mask_top_p: float = 0.9, mask_model: Any = None, **settings: Any):
        super().__init__(model, tokenizer, **settings)
        if not 0 < mask_top_p < 1:
            raise ConfigError(f"mask_top_p must be between 0 and 1, got {mask_top_p!r}")
        self.mask_top_p = mask_top_p
        masking = copy.deepcopy(self.model) if mask_model is None else mask_model
        self.mask_model = masking.requires_grad_(False)
        self._mask_lm = CausalLM(self.mask_model)
        self._mask_decoder: SlotDecoder | None = None

    def update_mask(self) -> None:
        """Mask by the present policy from here on."""
        self.mask_model.load_state_dict(self.model.state_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """As CausalLMActorCritic's, with the model that masks in `mask/`, which plain transformers loads too."""
        super().save_pretrained(folder)
        with quiet_loading():
            standalone(self.mask_model).save_pretrained(Path(folder) / MASK_FOLDER)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "mask_top_p": self.mask_top_p}

    def clear_cache(self) -> None:
        super().clear_cache()
        if getattr(self, "_mask_decoder", None) is not None:
            self._mask_decoder.clear()  # type: ignore[union-attr]

    def _last_hidden(self, observations: torch.Tensor) -> torch.Tensor:
        if self._mask_decoder is None:
            self._mask_decoder = SlotDecoder(self._mask_lm, self.max_length, cache=self.cache)
        masking = self._mask_decoder.last_hidden(observations)
        return torch.cat([super()._last_hidden(observations), masking], dim=-1)

    def _packed_hidden(self, packed: PackedEpisodes, *, max_tokens: int | None = None) -> torch.Tensor:
        with torch.no_grad():
            masking = state_hidden(self._mask_lm, packed, max_tokens=max_tokens)
        return torch.cat([super()._packed_hidden(packed, max_tokens=max_tokens), masking], dim=-1)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        own, masking = hidden.split(self.lm.hidden_size, dim=-1)
        with torch.no_grad():
            likely = truncate(
                scale(self._mask_lm.project(masking), self.sampling), SamplingParams(top_p=self.mask_top_p), self.banned
            )
        return self.lm.project(own) - PENALTY * torch.isinf(likely)
