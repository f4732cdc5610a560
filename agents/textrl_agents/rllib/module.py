"""The policy core that SB3 uses too, behind RLlib's module interface."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from textrl_agents.rllib.connectors.batch import PackedBatch
from textrl_agents.training.sampler_gap import SamplerGap
from textrl_env.arguments import model_arguments
from textrl_env.errors import ModelError
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks.assembly import assemble_model

# Names of the target network's tensors, which learners alone have.
TARGET = "target."


class TakenTokens(Distribution):
    """Log-probabilities of the actions taken, and entropies: a distribution that is known at the tokens taken alone.

    RLlib builds a distribution from the module's output and asks it for the log-probabilities of the batch's actions
    and for entropies. Logits over a vocabulary, [B, T, V], would be the peak of an update's memory. The module computes
    both numbers in chunks instead, and this distribution hands them on.

    inputs: float32 [..., 2], `(log-probability, entropy)` of each token, in nats.
    """

    def __init__(self, inputs: torch.Tensor):
        super().__init__()
        self.log_probs, self.entropies = inputs.unbind(dim=-1)

    def logp(self, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Log-probabilities of the actions that the inputs were computed for; `value` must be these."""
        return self.log_probs

    def entropy(self) -> torch.Tensor:
        return self.entropies

    def kl(self, other: Distribution) -> torch.Tensor:
        """KL(self || other) estimated at the actions taken, which self sampled: k3, never negative.

        `r - 1 - log r` with `r = other / self` (Schulman, http://joschu.net/blog/kl-approx.html).
        """
        assert isinstance(other, TakenTokens)
        log_ratio = other.log_probs - self.log_probs
        return torch.expm1(log_ratio) - log_ratio

    def sample(self, *, sample_shape: Any = None) -> torch.Tensor:
        raise NotImplementedError("the module samples by itself; this distribution knows the tokens taken alone")

    rsample = sample

    @classmethod
    def from_logits(cls, logits: torch.Tensor, **kwargs: Any) -> TakenTokens:
        return cls(logits)

    @staticmethod
    def required_input_dim(space: Any, **kwargs: Any) -> int:
        return 2


class CausalLMModule(TorchRLModule, ValueFunctionAPI):
    """A causal language model with a value head.

    model_config: `env`, the environment's arguments, from which the model is loaded where the module is built, and
        `actor_critic`, arguments of CausalLMActorCritic (`value_trunk`, `decoder`).

    Sampling returns tokens and their log-probabilities, never logits of the vocabulary's size. It needs no recurrent
    state: the core compares what it has cached with what it is shown.
    """

    def setup(self) -> None:
        env, settings = self.model_config["env"], self.model_config.get("actor_critic", {})
        parts = assemble_model(**model_arguments(env))
        self.actor_critic = CausalLMActorCritic(
            parts.model,
            parts.tokenizer,
            max_length=parts.max_length,
            sampling=parts.sampling,
            precision=parts.precision,
            response_tokens=parts.max_new_tokens,
            **settings,
        )
        self.sampler_gap = SamplerGap()

    def train(self, mode: bool = True) -> CausalLMModule:
        """Switch this module alone. RLlib does so at every step, and the core's layers have no dropout to switch."""
        self.training = mode
        return self

    @torch.no_grad()
    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        tokens, log_probs, _ = self.actor_critic.step(batch[Columns.OBS])
        return {Columns.ACTIONS: tokens, Columns.ACTION_LOGP: log_probs}

    @torch.no_grad()
    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        tokens, log_probs, _ = self.actor_critic.step(batch[Columns.OBS], deterministic=True)
        return {Columns.ACTIONS: tokens, Columns.ACTION_LOGP: log_probs}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        place = PackedBatch.of(batch)
        values, log_probs, entropy = self.actor_critic.evaluate(place.packed)
        if self.sampler_gap.due:
            counted = batch[Columns.LOSS_MASK][place.rows, place.columns]
            sampled = batch[Columns.ACTION_LOGP][place.rows, place.columns]
            self.sampler_gap.expect(sampled.where(counted, torch.nan))
            self.sampler_gap.compare(log_probs)
        return {
            Columns.ACTION_DIST_INPUTS: _taken(place, log_probs, entropy, batch[Columns.LOSS_MASK]),
            # The loss asks for values next, and takes these instead of another forward.
            Columns.EMBEDDINGS: place.unpack(values),
        }

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """State values float32 [B, W]."""
        if embeddings is not None:
            return embeddings
        place = PackedBatch.of(batch)
        return place.unpack(self.actor_critic.evaluate(place.packed).values)

    def get_inference_action_dist_cls(self) -> type[TakenTokens]:
        return TakenTokens

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The weights; `inference_only` (what env runners are sent) leaves out what training does not change."""
        state = self.state_dict()
        if inference_only:
            state = {name: state[name] for name in self._trained()}
        arrays: dict[str, Any] = to_arrays(state)
        return arrays

    def set_state(self, state: dict[str, Any]) -> None:
        own = {name: tensor.shape for name, tensor in self.state_dict().items()}
        unfit = {name for name, value in state.items() if own.get(name) != value.shape and not name.startswith(TARGET)}
        unfit |= self._trained() - set(state)
        if unfit:
            raise ModelError(f"these weights are of another model: {len(unfit)} do not fit, such as {min(unfit)}")
        self.load_state_dict(convert_to_torch_tensor(state), strict=False)
        # Fragments cut episodes at an update: what follows is sampled from the new weights from the first token on.
        self.actor_critic.clear_cache()

    def _trained(self) -> set[str]:
        return {
            name for name, tensor in self.named_parameters() if tensor.requires_grad and name.startswith("actor_critic")
        }


class TargetCausalLMModule(CausalLMModule, TargetNetworkAPI, InferenceOnlyAPI):
    """Adds the slowly moving copy that APPO takes its trust region from; learners alone have it."""

    target: CausalLMActorCritic

    def make_target_networks(self) -> None:
        self.actor_critic.clear_cache()
        self.target = copy.deepcopy(self.actor_critic).requires_grad_(False)

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if hasattr(self, "target") and not any(name.startswith(TARGET) for name in state):
            self.target.load_state_dict(self.actor_critic.state_dict())

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        return [(self.actor_critic, self.target)]

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        place = PackedBatch.of(batch)
        _, log_probs, entropy = self.target.evaluate(place.packed)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: _taken(place, log_probs, entropy, batch[Columns.LOSS_MASK])}

    def get_non_inference_attributes(self) -> list[str]:
        return ["target"]


def _taken(place: PackedBatch, log_probs: torch.Tensor, entropy: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """`TakenTokens` inputs [B, W, 2]; 0 at a state that is only bootstrapped from, where no action was taken."""
    inputs = torch.stack([place.unpack(log_probs), place.unpack(entropy)], dim=-1)
    return inputs.where(loss_mask[..., None], 0.0)


def to_arrays(structure: Any) -> Any:
    """A nested structure, its tensors as arrays.

    NumPy has no bfloat16. Such tensors become float32, which holds each of their values, so that `load_state_dict`
    gets back what was there. (RLlib does the same to float16.)
    """

    def widened(leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bfloat16 else leaf

    return convert_to_numpy(tree.map_structure(widened, structure))
