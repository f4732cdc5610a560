"""SB3's actor-critic policy interface over the shared policy core."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium
import torch
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from textrl_agents.sb3.buffers.sampled_tokens import SampledTensor
from textrl_agents.sb3.saved_policy import ModelCopy, load_policy_folder, save_policy_folder
from textrl_agents.training.divergence import GradientGuard
from textrl_agents.training.optimizers import optimizer_choice
from textrl_agents.training.sampler_gap import OLD_LOG_PROBS, SamplerGap
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, SamplingParams, load_model
from textrl_env.models.packing import pack_observations
from textrl_env.user_values import check_names

IMPOSSIBLE = -1e4  # the logit of an id that cannot be drawn


class CausalLMPolicy(ActorCriticPolicy):
    """A causal language model as an SB3 policy.

    model, tokenizer: what `textrl_env.models.load_model` takes, or a ModelCopy. A module is copied, unless
        `share_model` or it is a peft model, whose reference is itself with the adapter off. In `policy_kwargs` it is
        given as a ModelCopy, which `make_agent` makes of it: SB3's `save` pickles a bare one with its weights.
    sampling, value_trunk, cache, precision, micro_batch_tokens, gradient_checkpointing, decoder, response_tokens: see
        CausalLMActorCritic.
    device, dtype: where and how a model given by name is loaded.
    old_log_probs: what an update's ratio is taken against: "sampled", as tokens were drawn, or "recomputed" by one more
        pass over each rollout, so that the first ratio is 1 but for rounding.
    optimizer_class: a class, or its dotted name. optimizer_kwargs: its arguments; epsilon is 1e-5 by default.
    attention: the attention implementation to run, such as "eager", which alone has second derivatives; None keeps the
        model's own.

    Observations are id tensors, or the PackedEpisodes that EpisodeRolloutBuffer yields.
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Discrete[Any],
        lr_schedule: Schedule,
        use_sde: bool = False,
        *,
        model: Any = "embedded",
        tokenizer: Any = None,
        sampling: SamplingParams | None = None,
        value_trunk: str = "shared",
        cache: bool = True,
        precision: str = "auto",
        micro_batch_tokens: int | None = None,
        gradient_checkpointing: bool = False,
        decoder: str = "slots",
        response_tokens: int | None = None,
        share_model: bool = False,
        attention: str | None = None,
        device: Any = "auto",
        dtype: Any = "auto",
        old_log_probs: str = "sampled",
        optimizer_class: type[torch.optim.Optimizer] | str = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        if use_sde:
            raise ConfigError("use_sde is for continuous actions; tokens are discrete")
        check_names("old_log_probs", [old_log_probs], OLD_LOG_PROBS)
        if isinstance(optimizer_class, str):
            optimizer_class, optimizer_kwargs = optimizer_choice({"name": optimizer_class, **(optimizer_kwargs or {})})
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5} if issubclass(optimizer_class, torch.optim.Adam) else {}
        # BasePolicy, not ActorCriticPolicy: there are no feature extractors and heads to build.
        BasePolicy.__init__(
            self, observation_space, action_space, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs
        )
        self.use_sde = False
        self.old_log_probs, self.sampler_gap = old_log_probs, SamplerGap()
        model = model.module if isinstance(model, ModelCopy) else model
        loaded = load_model(model, tokenizer=tokenizer, device=device, dtype=dtype)
        module = loaded.model
        if module is model and not share_model and not hasattr(module, "disable_adapter"):
            module = copy.deepcopy(module)
        if attention is not None:
            module.set_attn_implementation(attention)
        self.actor_critic = self._make_core(
            module,
            loaded.tokenizer,
            max_length=int(observation_space.shape[0]),
            sampling=sampling,
            value_trunk=value_trunk,
            cache=cache,
            precision=precision,
            micro_batch_tokens=micro_batch_tokens,
            gradient_checkpointing=gradient_checkpointing,
            decoder=decoder,
            response_tokens=response_tokens,
        )
        if self.actor_critic.vocabulary.size != action_space.n:
            raise ConfigError(
                f"the policy's model emits {self.actor_critic.vocabulary.size} tokens and the environment takes "
                f"{action_space.n}: give both the same model"
            )
        self._lr = lr_schedule
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_class(trained, lr=lr_schedule(1), **optimizer_kwargs)  # type: ignore[call-arg]
        self.gradient_guard = GradientGuard(self.optimizer)
        # True while a buffer collects which computes values that a step does not give itself, all at once.
        self.values_after_rollout = False

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """Tensors besides the trained weights that later updates depend on; none, but for a policy with more parts."""
        return {}

    def load_frozen_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `frozen_state` gave."""

    def _make_core(self, model: Any, tokenizer: Any, **keywords: Any) -> CausalLMActorCritic:
        return CausalLMActorCritic(model, tokenizer, **keywords)

    @property
    def device(self) -> torch.device:
        return self.actor_critic.device

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens [N], values [N, 1] and log-probabilities [N] after observations int64 [N, L].

        Values that a step does not give (`values_later`) cost a forward of their own, and are NaN while
        `values_after_rollout`.
        """
        drawn = self.actor_critic.step(obs, deterministic=deterministic)
        tokens, values = SampledTensor.of(drawn.tokens, drawn.log_probs, self, in_rollout=True), drawn.values
        if values is None and self.values_after_rollout:
            values = torch.full_like(drawn.log_probs, torch.nan)
        elif values is None:
            values = self.actor_critic.states(obs).values
        return tokens, values[:, None], drawn.log_probs

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        # Of other rows than a rollout's, whose buffer says again what comes with each step that it is given.
        self.actor_critic.look_ahead(None, None)
        drawn = self.actor_critic.step(observation, deterministic=deterministic)
        return SampledTensor.of(drawn.tokens, drawn.log_probs, self, in_rollout=False)

    def evaluate_actions(self, obs: Any, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values [M, 1], log-probabilities [M] and entropies [M] of M transitions, with gradients."""
        actions = actions.long().flatten()
        packed = obs if isinstance(obs, PackedEpisodes) else pack_observations(obs, actions)
        values, log_probs, entropy = self.actor_critic.evaluate(packed, actions)
        self.sampler_gap.compare(log_probs)
        return values[:, None], log_probs, entropy

    def get_distribution(self, obs: Any) -> CategoricalDistribution:
        """The distribution sampled, over the V tokens; carries gradients for PackedEpisodes."""
        logits = self.actor_critic.states(obs).logits
        # An id that cannot be drawn still has a probability of 0, and a KL takes no difference of two infinities.
        distribution = CategoricalDistribution(int(self.action_space.n))  # type: ignore[attr-defined]
        return distribution.proba_distribution(logits.clamp(min=IMPOSSIBLE))

    def predict_values(self, obs: Any) -> torch.Tensor:
        """State values [N, 1]; carries gradients for PackedEpisodes."""
        return self.actor_critic.states(obs).values[:, None]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "sampling": self.actor_critic.sampling,
            "value_trunk": self.actor_critic.value_trunk,
            "precision": self.actor_critic.lm.precision,
            "old_log_probs": self.old_log_probs,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    @classmethod
    def _parts_of(cls, core: CausalLMActorCritic) -> dict[str, Any]:
        """Arguments of the policy that `core` brings besides CausalLMActorCritic's."""
        return {}

    def save(self, path: str | Path) -> None:
        """Write a folder: the model in Hugging Face format, the value head, and the spaces. No pickle."""
        save_policy_folder(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "auto") -> CausalLMPolicy:
        """Read a folder that `save` wrote."""
        core, arguments = load_policy_folder(cls, Path(path), device)
        policy = cls(**arguments, **cls._parts_of(core))
        policy.actor_critic.load_state_dict(core.value_state(), strict=False)
        return policy
