"""The policy interface of SB3's DQN and sb3-contrib's QR-DQN over the shared policy core.

A language model as a Q-function: `Q(s, a) = q_scale * log pi(a|s) + V(s)`, of its head's log-probabilities and the
value head's V. The greedy action is then the model's own likeliest token, so training starts from what the model knows,
and the trained Q-function is a language model that is decoded greedily.

With the soft backup it is a language model that is sampled. The optimum of KL-regularised RL is
`pi(a|s) = exp((Q(s, a) - V(s)) / kl_coef)` where `Q` counts `kl_coef * log pi_ref(a|s)` as a reward and
`V(s) = kl_coef * log sum_a exp(Q(s, a) / kl_coef)` (soft Q-learning, Haarnoja et al. 2017,
https://arxiv.org/abs/1702.08165; `pi` is `pi_ref` tilted by the advantage of the score). At `q_scale = kl_coef` the
form above has exactly that V in its value head and that `pi` in its language model, whatever its weights.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium
import torch
from safetensors.torch import save_file
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from textrl_agents.runs.checkpoint_files import load_tensors
from textrl_agents.sb3.buffers.sampled_tokens import SampledTensor
from textrl_agents.sb3.policy import IMPOSSIBLE, CausalLMPolicy
from textrl_agents.sb3.saved_policy import load_policy_folder, save_policy_folder
from textrl_agents.training.divergence import GradientGuard, check_values
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic
from textrl_env.models.states import States

SPREAD_FILE = "quantile_spread.safetensors"


class TokenQNetwork(nn.Module):
    """Q-values [M, V] of observations int64 [M, L] or of the transitions of PackedEpisodes."""

    def __init__(self, core: CausalLMActorCritic, q_scale: float):
        super().__init__()
        self.core, self.q_scale = core, q_scale

    def states(self, obs: Any) -> States:
        """The core's states, with gradients for PackedEpisodes. Raises TrainingDiverged for infinite values."""
        states = self.core.states(obs)
        check_values(states.values)
        return states

    def q_values(self, states: States) -> torch.Tensor:
        """[M, V]"""
        scores = self.q_scale * states.logits.log_softmax(dim=-1) + states.values[:, None]
        # An id that cannot be drawn has less than any other, but a finite value, since SB3 explores with every id.
        return scores.clamp(min=IMPOSSIBLE)

    def forward(self, obs: Any) -> torch.Tensor:
        return self.q_values(self.states(obs))


class SoftValueNetwork(TokenQNetwork):
    """The soft state value as the one column [M, 1] of Q-values: `DQN.train()` bootstraps from their maximum."""

    def forward(self, obs: Any) -> torch.Tensor:
        return self.core.states(obs).values[:, None]


class TokenQuantileNetwork(TokenQNetwork):
    """Quantiles of returns [M, n_quantiles, V]: the Q-value and a spread around it that the state alone decides.

    A spread for each token would need a head of n_quantiles * V outputs, many times the size of the model's own.
    """

    def __init__(self, core: CausalLMActorCritic, q_scale: float, n_quantiles: int):
        super().__init__(core, q_scale)
        self.spread = nn.Linear(core.lm.hidden_size, n_quantiles, device=core.device)
        nn.init.zeros_(self.spread.weight)
        nn.init.zeros_(self.spread.bias)

    def forward(self, obs: Any) -> torch.Tensor:
        states = self.states(obs)
        spread: torch.Tensor = self.spread(states.hidden.to(self.spread.weight.dtype)).float()
        return self.q_values(states)[:, None, :] + spread[:, :, None]


class CausalLMQPolicy(BasePolicy):
    """A causal language model and its target network as a DQN policy.

    q_scale: units of return to a nat of log-probability; > 0. It is also the temperature of exploration, which samples
        softmax(Q / q_scale): the language model itself, on top of SB3's epsilon-greedy.
    n_quantiles: None for DQN; their number for QR-DQN.
    soft: bootstrap from the soft value and not from the greatest Q-value; DQN's alone. q_scale is then the KL
        coefficient, and the policy is sampled.
    The other arguments are CausalLMPolicy's.
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Discrete[Any],
        lr_schedule: Schedule,
        *,
        q_scale: float = 1.0,
        n_quantiles: int | None = None,
        soft: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **model_arguments: Any,
    ):
        if not q_scale > 0:
            raise ConfigError(f"q_scale must be > 0, got {q_scale!r}")
        if soft and n_quantiles is not None:
            raise ConfigError("the soft backup is DQN's: quantiles of a soft value are not defined")
        super().__init__(observation_space, action_space)
        # The same core that the other algorithms have. The optimizer made with it is not used.
        core = CausalLMPolicy(observation_space, action_space, lr_schedule, **model_arguments).actor_critic
        core.greedy = not soft
        self.n_quantiles, self.soft = n_quantiles, soft
        online = (
            TokenQNetwork(core, q_scale) if n_quantiles is None else TokenQuantileNetwork(core, q_scale, n_quantiles)
        )
        target = SoftValueNetwork(copy.deepcopy(core), q_scale) if soft else copy.deepcopy(online)
        target.requires_grad_(False)
        if n_quantiles is None:
            self.q_net, self.q_net_target = online, target
        else:
            self.quantile_net, self.quantile_net_target = online, target
        self._online = [online]  # in a list: a second name for a module would hold its parameters twice
        self.optimizer_class = optimizer_class
        self.optimizer_kwargs = {"eps": 1e-5} if optimizer_kwargs is None else optimizer_kwargs
        trained = [parameter for parameter in online.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.gradient_guard = GradientGuard(self.optimizer)

    @property
    def actor_critic(self) -> CausalLMActorCritic:
        """The language model, to be decoded greedily (`deterministic=True`) as DQN does; with `soft` to be sampled."""
        return self._online[0].core

    @property
    def temperature(self) -> float | None:
        """The KL coefficient that the values were learned under with `soft`; else None."""
        return self._online[0].q_scale if self.soft else None

    @property
    def device(self) -> torch.device:
        return self.actor_critic.device

    def forward(self, obs: torch.Tensor, deterministic: bool = True) -> torch.Tensor:
        return self._predict(obs, deterministic)

    def _predict(self, observation: Any, deterministic: bool = True) -> torch.Tensor:
        drawn = self.actor_critic.step(observation, deterministic=deterministic)
        return SampledTensor.of(drawn.tokens, drawn.log_probs, self, in_rollout=False)

    def save(self, path: str | Path) -> None:
        """Write a folder as CausalLMPolicy's, with what makes a Q-function of its model. No pickle."""
        folder, online = Path(path), self._online[0]
        save_policy_folder(self, folder, q_scale=online.q_scale, n_quantiles=self.n_quantiles, soft=self.soft)
        if isinstance(online, TokenQuantileNetwork):
            save_file(online.spread.state_dict(), folder / SPREAD_FILE)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "auto") -> CausalLMQPolicy:
        """Read a folder that `save` wrote; the target network is a copy of the other. Raises ModelError."""
        folder = Path(path)
        core, arguments = load_policy_folder(cls, folder, device)
        policy = cls(**arguments)
        online = policy._online[0]
        online.core.load_state_dict(core.value_state(), strict=False)
        if isinstance(online, TokenQuantileNetwork):
            online.spread.load_state_dict(load_tensors(folder / SPREAD_FILE))
        target = policy.q_net_target if policy.n_quantiles is None else policy.quantile_net_target
        target.load_state_dict(online.state_dict())
        return policy
