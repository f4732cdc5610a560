"""The KL penalty between the policy and the reference: estimators, coefficients, and whole episodes scored at once.

All in nats, with `log_ratio = log pi(a|s) - log pi_ref(a|s)` at tokens sampled from the policy. Positive means likelier
under the policy, and lowers the reward: `r_t = score_t - kl_coef * k_t`.

Estimators (Schulman, http://joschu.net/blog/kl-approx.html):
    k1   = log_ratio                          unbiased, may be negative; its gradient as a reward is the KL's own
    k2   = log_ratio^2 / 2                    biased, low variance
    k3   = exp(-log_ratio) - 1 + log_ratio    unbiased where nothing is cut, never negative
    full = sum_a pi(a|s) * log_ratio(a)       exact; needs both distributions, so only whole episodes can have it

The policy is the distribution sampled, after temperature, top-k, top-p and masks. The reference has its temperature and
its banned ids, and is not cut. So KL(pi || pi_ref) is finite, and no estimator's mean is negative in any mode. Where
policy and reference are the same model, k1 and full are -log of the mass that the cut keeps. The mean of k3 is the KL
less the mass of the reference outside the cut.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown

if TYPE_CHECKING:
    from textrl_env.models.packing import PackedEpisodes
    from textrl_env.models.reference import Reference

KL_ESTIMATORS = ("k1", "k2", "k3", "full")
KL_MODES = ("auto", "log_ratio", "cross_entropy", "deferred")


def k1(log_ratio: torch.Tensor) -> torch.Tensor:
    """Per-token log-ratio, any shape, nats."""
    return log_ratio


def k2(log_ratio: torch.Tensor) -> torch.Tensor:
    """Half the squared log-ratio, any shape, nats."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """`r - 1 - log r` with `r = pi_ref / pi`, any shape, nats."""
    return torch.expm1(-log_ratio) + log_ratio


def full_kl(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """Exact KL(pi || pi_ref), [...], of log-probabilities [..., V] (-inf where impossible).

    Infinite where the policy can draw a token that the reference cannot.
    """
    probs = log_probs.exp()
    return torch.where(probs > 0, probs * (log_probs - ref_log_probs), 0.0).sum(dim=-1)


_SAMPLED = {"k1": k1, "k2": k2, "k3": k3}


def estimate_kl(estimator: str, log_ratio: torch.Tensor) -> torch.Tensor:
    """Apply `k1`, `k2` or `k3` by name."""
    if estimator not in _SAMPLED:
        raise ConfigError(
            f"kl_estimator={estimator!r} needs both distributions, which a single step does not bring. "
            "Use kl_mode='deferred', or one of k1, k2, k3."
        )
    return _SAMPLED[estimator](log_ratio)


class KLController(Protocol):
    """Gives the coefficient, and may adapt it to the KL that was seen."""

    value: float

    def update(self, kl: float, episodes: int) -> None:
        """kl: mean KL per response, nats, of `episodes` finished episodes."""


class FixedKL:
    """A constant coefficient."""

    def __init__(self, value: float):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"kl_coef must be a finite number >= 0, got {value}")
        self.value = float(value)

    def update(self, kl: float, episodes: int) -> None:
        """A fixed coefficient stays."""


class AdaptiveKL:
    """Steers the KL per response towards `target` (Ziegler et al. 2019, section 2.2, https://arxiv.org/abs/1909.08593).

    `value *= 1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon`; the horizon counts episodes.
    """

    def __init__(self, value: float, *, target: float, horizon: float = 10_000):
        FixedKL(value)
        if not (target > 0 and horizon > 0):
            raise ConfigError(f"an adaptive kl_coef needs target > 0 and horizon > 0, got {target} and {horizon}")
        self.value, self.target, self.horizon = float(value), float(target), float(horizon)

    def update(self, kl: float, episodes: int) -> None:
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.value *= 1.0 + error * episodes / self.horizon


def make_controller(kl_coef: float | Mapping[str, float] | KLController) -> KLController:
    """A number is fixed; a mapping with `value`, `target` and optionally `horizon` is adaptive."""
    if isinstance(kl_coef, Mapping):
        try:
            return AdaptiveKL(**kl_coef)
        except (TypeError, OverflowError):
            raise ConfigError(
                f"kl_coef as a mapping takes value, target and optionally horizon, got {sorted(kl_coef)}"
            ) from None
    if isinstance(kl_coef, bool) or not hasattr(kl_coef, "update"):
        try:
            return FixedKL(float(kl_coef))
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"kl_coef must be a number, a mapping or a controller, got {shown(kl_coef)}") from None
    return kl_coef  # type: ignore[return-value]  # it has `update`, so it is a controller


class Distributions(Protocol):
    """The distributions of M transitions."""

    def distributions(self, rows: int) -> Iterator[torch.Tensor]:
        """Log-probabilities of every id, float32 [m, V] for `rows` of the M at a time."""


class Sampler(Protocol):
    """A policy that can tell what it samples from, such as a CausalLMActorCritic."""

    def states(self, packed: PackedEpisodes, /) -> Distributions:
        """The states at the transitions of whole sequences."""


class KLTerms(NamedTuple):
    """Per transition, in the order of the episodes scored."""

    ref_log_probs: torch.Tensor  # float32 [M]
    kl: torch.Tensor  # float32 [M], the estimator's terms, without the coefficient


class KLPenalty:
    """Scores whole episodes against the reference in one forward pass each (`kl_mode="deferred"`).

    The same numbers as the environment pays step by step, at a fraction of the cost. An adapter subtracts
    `coef * kl` from each transition's reward before it computes advantages, and then calls `update`.
    """

    def __init__(
        self, reference: Reference | None, kl_coef: float | Mapping[str, float] | KLController, estimator: str = "k1"
    ):
        if estimator not in KL_ESTIMATORS:
            raise UnknownName("kl_estimator", estimator, KL_ESTIMATORS)
        self.reference, self.controller, self.estimator = reference, make_controller(kl_coef), estimator

    @property
    def coef(self) -> float:
        """The coefficient now in force."""
        return self.controller.value

    def update(self, kl: float, episodes: int) -> None:
        """Tell the controller the mean KL per response (nats) of `episodes` finished episodes."""
        if episodes > 0 and math.isfinite(kl):
            self.controller.update(kl, episodes)

    @torch.no_grad()
    def __call__(self, packed: PackedEpisodes, log_probs: torch.Tensor, policy: Sampler | None = None) -> KLTerms:
        """Penalty terms of M transitions.

        log_probs: float [M], the policy's, of the actions when they were sampled.
        policy: what sampled them; needed by the `full` estimator alone.
        """
        reference = self.require_reference()
        ref_log_probs = reference.episode_log_probs(packed)
        if self.estimator != "full":
            return KLTerms(ref_log_probs, estimate_kl(self.estimator, log_probs.to(ref_log_probs) - ref_log_probs))
        if policy is None:
            raise ConfigError("kl_estimator='full' needs the policy's distribution: pass policy= the actor-critic")
        rows = reference.chunk_rows
        pairs = zip(policy.states(packed).distributions(rows), reference.distributions(packed, rows), strict=True)
        return KLTerms(ref_log_probs, torch.cat([full_kl(*pair) for pair in pairs]))

    def require_reference(self) -> Reference:
        """Return the reference model. Raises ConfigError where the environment was built without one."""
        if self.reference is None:
            raise ConfigError(
                "this KLPenalty has no reference model; take the one of the environment, env.kl_penalty, and build the "
                "environment without with_reference=False"
            )
        return self.reference

    def __deepcopy__(self, memo: dict[int, Any]) -> KLPenalty:
        # Copies of an environment share the frozen reference: what it computes depends on the observation alone.
        return KLPenalty(self.reference, copy.deepcopy(self.controller, memo), self.estimator)

    def __getstate__(self) -> dict[str, Any]:
        # A reference is rebuilt from its path where it is needed, never pickled into a configuration.
        return {**self.__dict__, "reference": None}
