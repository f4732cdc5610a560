"""What is run, with every number: the arms, their tokens and settings, seeds and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from textrl_agents.benchmark.stored_plan import StoredPlan
from textrl_env.errors import ConfigError
from textrl_env.user_values import LARGEST_SEED, check_number, check_seed, check_whole

MLE = "mle"
# Arm -> its objective, and how it is pretrained otherwise than by default.
OBJECTIVE_ARMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        MLE: {},
        "filter": {},
        "conditional": {"unmarked": 0.1},
        "unlikelihood": {},
        "rwr": {"beta": 0.25},
        "awr": {"beta": 0.25},
    }
)
# Arm -> the algorithm that goes on from a model of plain pretraining.
RL_ARMS: Mapping[str, str] = MappingProxyType(
    {"mle + ppo": "ppo", "mle + dpo": "trl_dpo", "mle + expert iteration": "expert_iteration"}
)
# Arm -> settings of its algorithm, otherwise than tuned. At the learning rates that fit a model of this size, a policy
# that was pretrained so shortly forgets how to write.
RL_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mle + ppo": {"learning_rate": {"peak": 3e-4}},
        "mle + dpo": {"learning_rate": 2e-4},
        "mle + expert iteration": {"learning_rate": {"peak": 3e-4}},
    }
)
BASE = "base"  # what these go on from: plain pretraining on the tokens that they leave
ARMS = (*OBJECTIVE_ARMS, *RL_ARMS)
# A Llama of 164,000 weights over the embedded tokenizer.
MODEL = MappingProxyType(
    {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
)


@dataclass(frozen=True, kw_only=True)
class PretrainingPlan(StoredPlan):
    """The whole experiment.

    seeds: of each arm, each with other weights to begin with, another order of the documents and other samples.
    documents: of the grammar; the same for all seeds. tokens: that each arm is trained on. rl_tokens: how many of them
        an arm with reinforcement learning generates; what it starts from was pretrained on the others.
    objectives: arm -> settings of its pretraining. rl: arm -> settings of its algorithm, beside its tuned ones.
    model: of the LlamaConfig. learning_rate, batch_size: of pretraining.
    prompts: of each kind, at most, and responses: to each of them. sampled: documents that are written from nothing.
    heldout: documents that the loss is measured on.
    """

    seeds: int = 3
    documents: int = 6_000
    tokens: int = 240_000
    rl_tokens: int = 48_000
    objectives: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {name: dict(settings) for name, settings in OBJECTIVE_ARMS.items()}
    )
    rl: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {name: dict(settings) for name, settings in RL_SETTINGS.items()}
    )
    model: Mapping[str, int] = field(default_factory=lambda: dict(MODEL))
    learning_rate: float = 8e-3
    batch_size: int = 16
    prompts: int = 64
    responses: int = 4
    sampled: int = 256
    heldout: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"seeds": 1, "documents": 32, "tokens": 2, "rl_tokens": 1, "batch_size": 1}
        least |= {"prompts": 1, "responses": 1, "sampled": 2, "heldout": 2}
        for name, bound in least.items():
            check_whole(name, getattr(self, name), bound)
        if self.rl_tokens >= self.tokens:
            raise ConfigError(
                f"rl_tokens={self.rl_tokens} must be fewer than tokens={self.tokens}: they are a part of them"
            )
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_seed(self.seed, LARGEST_SEED - self.seeds)
        for name, arms in {"objectives": OBJECTIVE_ARMS, "rl": RL_ARMS}.items():
            if list(getattr(self, name)) != list(arms):
                raise ConfigError(f"{name} must have settings for each of {', '.join(arms)}")


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "full": {},
        "quick": {"documents": 3_000, "tokens": 120_000, "rl_tokens": 24_000, "sampled": 128, "heldout": 200},
    }
)
"""What each preset says otherwise than `PretrainingPlan`."""
