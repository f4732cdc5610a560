"""NLPO: PPO that samples within the top-p tokens of a lagged copy of itself.

Ramamurthy et al. 2023, https://arxiv.org/abs/2210.01241, algorithm 1: the action space at each state is what an earlier
policy finds likely, so that a token the language model would never write is never explored.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO

from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_env.models import CausalLMActorCritic
from textrl_env.models.masked_actor_critic import MaskedActorCritic
from textrl_env.user_values import check_whole


class MaskedCausalLMPolicy(CausalLMPolicy):
    """CausalLMPolicy over a MaskedActorCritic. mask_top_p, mask_model: see there."""

    actor_critic: MaskedActorCritic

    def __init__(self, *arguments: Any, mask_top_p: float = 0.9, mask_model: Any = None, **keywords: Any):
        self._mask: dict[str, Any] = {"mask_top_p": mask_top_p, "mask_model": mask_model}
        super().__init__(*arguments, **keywords)

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """The model that masks; tied weights once."""
        return dict(self.actor_critic.mask_model.named_parameters())

    def load_frozen_state(self, state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.actor_critic.mask_model.named_parameters():
                parameter.copy_(state[name])

    def _make_core(self, model: Any, tokenizer: Any, **keywords: Any) -> MaskedActorCritic:
        return MaskedActorCritic(model, tokenizer, **self._mask, **keywords)

    @classmethod
    def _parts_of(cls, core: CausalLMActorCritic) -> dict[str, Any]:
        assert isinstance(core, MaskedActorCritic)
        return {"mask_top_p": core.mask_top_p, "mask_model": core.mask_model}


class NLPO(PPO):
    """PPO over a MaskedCausalLMPolicy.

    mask_every: rollouts between two updates of the mask. The other arguments are PPO's.
    """

    policy: MaskedCausalLMPolicy

    def __init__(self, policy: Any, env: Any, *, mask_every: int = 10, **arguments: Any):
        check_whole("mask_every", mask_every, 1)
        self.mask_every = mask_every
        super().__init__(policy, env, **arguments)

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        rollouts = self.num_timesteps // (self.n_steps * self.n_envs)
        if rollouts and rollouts % self.mask_every == 0:
            self.policy.actor_critic.update_mask()
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
