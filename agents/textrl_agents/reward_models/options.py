"""What the training of a reward model can be told, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.user_values import LARGEST_SEED, POOLINGS, check_device_name, check_number, check_seed, check_whole

Kind = Literal["classifier", "trunk", "linear", "svm"]
KINDS = MappingProxyType(
    {
        "classifier": "a sequence classifier, all of its weights trained by TRL's RewardTrainer",
        "trunk": "a linear head on the hidden states of a frozen policy, fitted to comparisons and ratings together",
        "linear": "scikit-learn's logistic regression on features of two responses (ridge regression on ratings)",
        "svm": "scikit-learn's linear support vector machine on features of two responses",
    }
)
EMBEDDED, EMBEDDED_REWARD = "embedded", "embedded-reward"
"""The embedded policy, and the embedded reward model: that one has learned the sentiment task's gold score, so it knows
much before any feedback."""
FEATURES = ("hidden_states", "hashed_ngrams")
VOTES = ("each", "majority")
COMBINATIONS = ("mean", "worst", "uncertainty")
Told = Callable[[str], None]
Conversation = tuple[Any, str]  # a prompt and a response


def _nothing(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a reward model is trained; the fields are keyword arguments of `train_reward_model`.

    kind: see KINDS. model: what the classifier starts from, or whose hidden states are read: "embedded" (the policy,
        and the default of a trunk), "embedded-reward" (the default of the other kinds), a folder, a training run or a
        Hugging Face id.
    ensemble: how many models, each with a seed of its own; 1 is one model on all prompts. combine, coefficient: how
        `EnsembleReward` combines them.
    bootstrap: whether each member learns from prompts drawn anew with replacement, so that members differ where the
        feedback is thin. Without it all learn from all prompts, and differ by their heads' first weights and the order
        of the pairs (deep ensembles, Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474); classifiers only.
    heldout: the share of the prompts that is held out.
    votes: "each" takes every annotator's comparison, "majority" one for all votes on the same two responses.
    ties: whether ties are learned from, as half a win for either side; otherwise they are left out.
    margin_scale: of classifiers and trunks, by what a comparison's margin is multiplied; 0 takes no margins.
    weights: attribute of the ratings -> its weight in the score; by default all have the same.
    group: a column of the prompts by which accuracy is split.
    reference: the policy (or its samples, as (prompt, response)) on which scores get mean 0 and standard deviation 1;
        None takes the responses that were judged. max_new_tokens: the longest sample.
    gold: a reward that tells the true preference, for figures alone; nothing is learned from it.
    features: of the kinds "linear" and "svm": "hidden_states" or "hashed_ngrams". pooling: of hidden states, a trunk's
        too: "last", "response" or "all" tokens. layers: how many of the model's first layers are read, None for all.
        Both as `HiddenStates` has them.
    settings: of the kind "classifier": fields of TRL's RewardConfig, such as `num_train_epochs`.
    plot: whether `calibration.png` is drawn.
    """

    kind: Kind = "classifier"
    model: str | Path | None = None
    ensemble: int = 1
    combine: str = "mean"
    coefficient: float = 0.5
    bootstrap: bool = True
    seed: int = 0
    heldout: float = 0.2
    votes: Literal["each", "majority"] = "each"
    ties: bool = True
    margin_scale: float = 1.0
    weights: Mapping[str, float] | None = None
    group: str | None = None
    reference: str | Path | Sequence[Conversation] | None = None
    max_new_tokens: int = 64
    gold: Callable[..., Any] | None = None
    features: str = "hidden_states"
    pooling: str = "response"
    layers: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    plot: bool = True
    told: Told = _nothing

    def __post_init__(self) -> None:
        for what, value, known in (
            ("kind of reward model", self.kind, KINDS),
            ("votes", self.votes, VOTES),
            ("features", self.features, FEATURES),
            ("way to combine an ensemble", self.combine, COMBINATIONS),
            ("pooling", self.pooling, POOLINGS),
        ):
            if value not in known:
                raise UnknownName(what, value, known)
        check_whole("ensemble", self.ensemble, 1)
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        if self.layers is not None:
            check_whole("layers", self.layers, 1)
            if self.features != "hidden_states" or self.kind == "classifier":
                raise ConfigError("layers are of the kinds trunk, linear and svm, where they read hidden states")
        check_seed(self.seed, LARGEST_SEED)
        check_number("heldout", self.heldout, 0, 0.9, above=True)
        check_number("margin_scale", self.margin_scale, 0)
        check_number("coefficient", self.coefficient, 0)
        check_device_name(self.device)
        if self.settings and self.kind != "classifier":
            raise ConfigError(f"settings are those of TRL's RewardConfig, which the kind {self.kind!r} does not use")
        if not self.bootstrap and self.kind != "classifier":
            raise ConfigError(
                f"without a bootstrap all members of the kind {self.kind!r} would be the same model; leave bootstrap "
                "on, or take the kind classifier"
            )
        if self.features != "hidden_states" and self.kind not in ("linear", "svm"):
            raise ConfigError(f"features={self.features!r} are for the kinds linear and svm, not for {self.kind!r}")
        if self.model is None:
            object.__setattr__(self, "model", EMBEDDED if self.kind == "trunk" else EMBEDDED_REWARD)
        if self.weights is not None:
            if not isinstance(self.weights, Mapping) or not self.weights:
                raise ConfigError(f"weights must be a mapping of attributes to numbers, got {shown(self.weights)}")
            for name, weight in self.weights.items():
                check_number(f"the weight of {shown(name)}", weight)

    def attribute_weights(self, attributes: Sequence[str]) -> dict[str, float]:
        """Attribute -> weight in the score, for those that were rated; they all have 1 / n where none are given.

        Raises UnknownName for a weight of what nobody rated, ConfigError where all weights are 0.
        """
        if self.weights is None or not attributes:
            return {name: 1 / len(attributes) for name in attributes}
        for name in self.weights:
            if name not in attributes:
                raise UnknownName("attribute of the ratings", name, attributes)
        if not any(self.weights.values()):
            raise ConfigError(f"all weights are 0, so that every response would have the same score: {self.weights}")
        return {name: float(self.weights.get(name, 0.0)) for name in attributes}

    def as_settings(self) -> dict[str, Any]:
        """What the report and the card state, as plain JSON values."""
        names = ["kind", "model", "ensemble", "seed", "heldout", "votes", "ties", "group"]
        if self.kind in ("classifier", "trunk"):  # scikit-learn's losses have no margins
            names.append("margin_scale")
        if self.ensemble > 1:
            names += ["combine", "coefficient", "bootstrap"]
        if self.kind != "classifier":
            names += ["features", *(["pooling", "layers"] if self.features == "hidden_states" else [])]
        if self.kind == "classifier":
            names.append("settings")
        stated = {name: getattr(self, name) for name in names}
        stated["model"] = None if self.features == "hashed_ngrams" else str(self.model)
        return {**stated, **({"weights": dict(self.weights)} if self.weights else {})}
