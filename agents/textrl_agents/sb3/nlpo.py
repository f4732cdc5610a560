"""NLPO: PPO that samples within the top-p tokens of a lagged copy of itself.

Ramamurthy et al. 2023, https://arxiv.org/abs/2210.01241, algorithm 1: the action space at each state is what an earlier
policy finds likely, so that a token the language model would never write is never explored. The mask is part of the
distribution: log-probabilities, entropies and the KL are those of what is sampled.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from stable_baselines3 import PPO

from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLM, CausalLMActorCritic, PackedEpisodes, SamplingParams
from textrl_env.models.decoder import SlotDecoder
from textrl_env.models.packing import state_hidden
from textrl_env.models.sampling import scale, truncate

# Subtracted from the logits of masked tokens. Not infinite, because the mask's edge can fall elsewhere in the last bit
# when a sequence is run as a whole: such a token keeps a finite log-probability, and none is ever drawn at e^-50.
PENALTY = 50.0


class MaskedActorCritic(CausalLMActorCritic):
    """CausalLMActorCritic within the top-p tokens of a frozen copy of its model.

    mask_top_p: the smallest set of the copy's likeliest tokens whose probability reaches this is kept.
    """

    def __init__(self, model: Any, tokenizer: Any, *, mask_top_p: float = 0.9, **settings: Any):
        super().__init__(model, tokenizer, **settings)
        if not 0 < mask_top_p < 1:
            raise ConfigError(f"mask_top_p must be between 0 and 1, got {mask_top_p!r}")
        self.mask_top_p = mask_top_p
        self.mask_model = copy.deepcopy(self.model).requires_grad_(False)
        self._mask_lm = CausalLM(self.mask_model)
        self._mask_decoder: SlotDecoder | None = None

    def update_mask(self) -> None:
        """Mask by the present policy from here on."""
        self.mask_model.load_state_dict(self.model.state_dict())

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


class MaskedCausalLMPolicy(CausalLMPolicy):
    """CausalLMPolicy over a MaskedActorCritic. mask_top_p: see there."""

    def __init__(self, *arguments: Any, mask_top_p: float = 0.9, **keywords: Any):
        self._mask_top_p = mask_top_p
        super().__init__(*arguments, **keywords)

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """The model that masks; tied weights once."""
        assert isinstance(self.actor_critic, MaskedActorCritic)
        return dict(self.actor_critic.mask_model.named_parameters())

    def load_frozen_state(self, state: dict[str, torch.Tensor]) -> None:
        assert isinstance(self.actor_critic, MaskedActorCritic)
        with torch.no_grad():
            for name, parameter in self.actor_critic.mask_model.named_parameters():
                parameter.copy_(state[name])

    def _make_core(self, *arguments: Any, **keywords: Any) -> MaskedActorCritic:
        return MaskedActorCritic(*arguments, mask_top_p=self._mask_top_p, **keywords)


class NLPO(PPO):
    """PPO over a MaskedCausalLMPolicy.

    mask_every: rollouts between two updates of the mask. The other arguments are PPO's.
    """

    def __init__(self, policy: Any, env: Any, *, mask_every: int = 10, **arguments: Any):
        if isinstance(mask_every, bool) or not isinstance(mask_every, int) or mask_every < 1:
            raise ConfigError(f"mask_every must be a whole number >= 1, got {mask_every!r}")
        self.mask_every = mask_every
        super().__init__(policy, env, **arguments)

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        rollouts = self.num_timesteps // (self.n_steps * self.n_envs)
        if rollouts and rollouts % self.mask_every == 0:
            assert isinstance(self.policy, MaskedCausalLMPolicy)
            assert isinstance(self.policy.actor_critic, MaskedActorCritic)
            self.policy.actor_critic.update_mask()
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
