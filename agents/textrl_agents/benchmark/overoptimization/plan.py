"""What is run, with every number: sizes of the proxies' data, seeds, samples, PPO's budget, and the cures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from textrl_agents.benchmark.stored_plan import StoredPlan
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.tasks import get_task
from textrl_env.user_values import (
    LARGEST_SEED,
    POOLINGS,
    check_device_name,
    check_names,
    check_number,
    check_seed,
    check_whole,
)

KINDS = ("linear", "trunk", "svm", "classifier")  # of reward models
LEAST_SIZES = LEAST_MEMBERS = 2
LEAST_COMPARISONS = 10  # that a model learns from
N_GRAMS = 0  # layers of a member that reads no hidden states
PAIRS_A_COMPARISON = 1.25
# A few hundred responses say little of 900,000 weights: where all of them move, more of the KL is spent on noise.
# An adapter of low rank spends it on the proxy.
RL_SETTINGS = MappingProxyType(
    {"n_envs": 64, "n_steps": 64, "lora": {"r": 8}, "learning_rate": {"scale": 1.0, "final": 1.0}}
)


class Cure(NamedTuple):
    """What is to delay over-optimisation. combine: of the ensemble; None for a single proxy. charge: the field of the
    plan that says PPO's KL coefficient; None for none."""

    label: str
    combine: str | None = None
    charge: str | None = None


CURES: Mapping[str, Cure] = MappingProxyType(
    {
        "worst": Cure("ensemble, worst case", "worst"),
        "uncertainty": Cure("ensemble, mean - coefficient x variance", "uncertainty"),
        "kl": Cure("KL charge", charge="kl_coef"),
        "small-kl": Cure("small KL charge", charge="small_kl_coef"),
        "worst-small-kl": Cure("worst case + small KL charge", "worst", "small_kl_coef"),
        "uncertainty-small-kl": Cure("mean - variance + small KL charge", "uncertainty", "small_kl_coef"),
    }
)


@dataclass(frozen=True, kw_only=True)
class OveroptimizationPlan(StoredPlan):
    """The whole experiment.

    task: has a gold score, which plays the truth. model: the policy that is sampled from and trained, and whose first
        layers the proxies read; None takes the task's.
    sizes: comparisons that a proxy learns from, its own held-out tenth among them. noise: share of wrong labels.
    seeds: proxies of each size, each with other comparisons and other errors. kind, pooling: of the reward models.
    layers: of the policy, which a single proxy reads; all of them where the policy has fewer. Its first layers know
        words and their neighbours. The last ones are about the next token, and of little use to judge by.
    prompts: held-out ones that judge, at most. candidates: responses of the reference to each of them, for best-of-n.
    pairs: of responses to training prompts, which the comparisons are drawn from.
    member_layers, member_poolings: of the ensembles, how many layers each member reads, 0 for n-grams of the response
        alone, and how it pools them. Members that read the same are wrong together. Each learns from an equal part of
        the comparisons of the single proxy.
    coefficient: of the variance between members.
    rl_seeds: of the proxies of a size, how many PPO is run against.
    rl_tokens: what a run generates at most. rl_distance: sqrt(KL) after which it ends, and up to which the form is
        fitted; the same for every size. Further on policies fall apart within a few updates, and no form holds.
    rl_settings: of PPO, otherwise than its tuned ones.
    rl_responses: to each held-out prompt, at each of `rl_points` measurements after the start.
    cure_size: of the proxies that the cures are tried on. kl_coef, small_kl_coef: the charges.
    """

    INCIDENTAL = frozenset({"device"})

    task: str = "sentiment"
    model: str | None = None
    sizes: tuple[int, ...] = (100, 200, 400, 800, 1600, 3200)
    noise: float = 0.25
    seeds: int = 5
    kind: str = "linear"
    pooling: str = "all"
    layers: int = 2
    prompts: int = 64
    candidates: int = 512
    pairs: int = 4000
    member_layers: tuple[int, ...] = (0, 1, 2, 3, 4)
    member_poolings: tuple[str, ...] = ("all", "response", "all", "response", "all")
    coefficient: float = 1.0
    rl_seeds: int = 3
    rl_tokens: int = 98_304
    rl_distance: float = 6.0
    rl_points: int = 24
    rl_responses: int = 2
    rl_settings: Mapping[str, Any] = field(default_factory=lambda: dict(RL_SETTINGS))
    cure_size: int = 800
    kl_coef: float = 0.05
    small_kl_coef: float = 0.01
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        object.__setattr__(self, "member_layers", tuple(self.member_layers))
        object.__setattr__(self, "member_poolings", tuple(self.member_poolings))
        object.__setattr__(self, "rl_settings", dict(self.rl_settings))
        least = {"seeds": 1, "prompts": 2, "candidates": 4, "rl_seeds": 0, "rl_tokens": 1}
        least |= {"rl_points": 2, "rl_responses": 1, "pairs": 2, "layers": 1}
        for name, bound in least.items():
            check_whole(name, getattr(self, name), bound)
        for size in self.sizes:
            check_whole("each of the sizes", size, LEAST_COMPARISONS)
        if len(self.sizes) < LEAST_SIZES or list(self.sizes) != sorted(set(self.sizes)):
            raise ConfigError(
                f"sizes must be at least {LEAST_SIZES} different numbers in rising order, got {self.sizes}"
            )
        for layers in self.member_layers:
            check_whole("each of the member_layers", layers, 0)
        if len(self.member_layers) < LEAST_MEMBERS:
            raise ConfigError(f"an ensemble has at least {LEAST_MEMBERS} members, got {self.member_layers}")
        if len(self.member_poolings) != len(self.member_layers):
            raise ConfigError(
                f"each member has one pooling: member_layers are {self.member_layers}, member_poolings "
                f"{self.member_poolings}"
            )
        check_names("pooling", [self.pooling, *self.member_poolings], POOLINGS)
        if self.cure_size < (needed := LEAST_COMPARISONS * len(self.member_layers)):
            raise ConfigError(
                f"cure_size must be at least {needed}, {LEAST_COMPARISONS} comparisons for each member of an ensemble; "
                f"got {self.cure_size}"
            )
        if self.cure_size not in self.sizes:
            raise ConfigError(f"cure_size must be one of the sizes {self.sizes}, got {self.cure_size}")
        if self.sizes[-1] > self.pairs:
            raise ConfigError(
                f"the largest size, {self.sizes[-1]}, needs as many pairs to compare; pairs is {self.pairs}"
            )
        if self.rl_seeds > self.seeds:
            raise ConfigError(f"rl_seeds must not exceed seeds={self.seeds}, got {self.rl_seeds}")
        check_number("noise", self.noise, 0, 0.5)
        check_number("coefficient", self.coefficient, 0)
        for name in ("kl_coef", "small_kl_coef", "rl_distance"):
            check_number(name, getattr(self, name), 0, above=True)
        check_seed(self.seed, LARGEST_SEED - self.seeds)
        check_device_name(self.device)
        check_names("kind of reward model", [self.kind], KINDS)
        if get_task(self.task).gold is None:
            raise ConfigError(
                f"task {shown(self.task)} has no gold score, so nothing tells when optimising goes too far; use one "
                "that has, such as sentiment"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """The n's of best-of-n: powers of two, and the number of candidates."""
        powers = [2**power for power in range(self.candidates.bit_length()) if 2**power <= self.candidates]
        return tuple(sorted({*powers, self.candidates}))

    @classmethod
    def of(cls, preset: Mapping[str, Any], **given: Any) -> OveroptimizationPlan:
        """A preset with what is given otherwise.

        Where sizes or seeds are given and do not fit what else the preset says, that follows them: as many pairs as the
        largest size needs, no more runs of PPO than proxies, and the cures on the largest size.
        """
        chosen = {**preset, **given}
        default = {each.name: each.default for each in dataclasses.fields(cls)}
        sizes = tuple(chosen.get("sizes", default["sizes"]))
        if "sizes" in given and sizes:
            chosen.setdefault("cure_size", default["cure_size"] if default["cure_size"] in sizes else max(sizes))
            # A share of the pairs have equal gold scores and are not asked about.
            chosen["pairs"] = max(chosen.get("pairs", default["pairs"]), math.ceil(max(sizes) * PAIRS_A_COMPARISON))
        chosen["rl_seeds"] = min(chosen.get("rl_seeds", default["rl_seeds"]), chosen.get("seeds", default["seeds"]))
        return cls(**chosen)


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "full": {},
        "quick": {
            "sizes": (100, 200, 400, 800, 1600),
            "seeds": 3,
            "prompts": 32,
            "candidates": 256,
            "pairs": 1800,
            "rl_seeds": 1,
            "rl_tokens": 65_536,
            "rl_points": 16,
            "rl_responses": 4,
        },
    }
)
"""What each preset says otherwise than `OveroptimizationPlan`."""
