"""The KL: estimators against exact values, coefficients by hand, and whole episodes against the step-by-step charge."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from suffixes import pack_suffixes

from textrl_env import KLPenalty, TextGenEnv, TokenAction
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.kl import KL_ESTIMATORS, AdaptiveKL, FixedKL, estimate_kl, full_kl, k1, k2, k3, make_controller
from textrl_env.models import CausalLMActorCritic, PackedEpisodes
from textrl_env.models.packing import pack_observations
from textrl_env.tasks import Task

# Policy and reference over five tokens, and what follows by hand.
PI = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
REF = torch.tensor([0.2, 0.3, 0.1, 0.15, 0.25], dtype=torch.float64)
EXACT_KL = 0.5 * np.log(2.5) + 0.2 * np.log(2 / 3) + 0.15 * np.log(1.5) + 0.1 * np.log(2 / 3) + 0.05 * np.log(0.2)
MEAN_K2 = 0.5 * (
    0.5 * np.log(2.5) ** 2 + 0.45 * np.log(1.5) ** 2 + 0.05 * np.log(5.0) ** 2
)  # ln(2/3)^2 = ln(1.5)^2, with mass 0.2 + 0.15 + 0.1


def test_estimators_by_hand():
    log_ratio = torch.tensor([0.0, 0.5, -0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(k1(log_ratio), log_ratio)
    torch.testing.assert_close(k2(log_ratio), torch.tensor([0.0, 0.125, 0.125, 2.0], dtype=torch.float64))
    by_hand = [0.0, np.exp(-0.5) - 1 + 0.5, np.exp(0.5) - 1 - 0.5, np.exp(-2.0) - 1 + 2.0]
    torch.testing.assert_close(k3(log_ratio), torch.tensor(by_hand, dtype=torch.float64))
    assert (k3(torch.linspace(-3, 3, 61)) >= 0).all()


@pytest.mark.parametrize(("estimator", "expected"), [("k1", EXACT_KL), ("k2", MEAN_K2), ("k3", EXACT_KL)])
def test_the_mean_of_each_estimator_is_its_known_value(estimator: str, expected: float):
    """CHECKS 24: by the exact expectation over five tokens, and by sampling. k1 and k3 are the KL, k2 is biased."""
    log_ratio = PI.log() - REF.log()
    values = estimate_kl(estimator, log_ratio)
    assert float((PI * values).sum()) == pytest.approx(expected, abs=1e-12)
    drawn = values[torch.multinomial(PI, 200_000, replacement=True)]
    assert float(drawn.mean()) == pytest.approx(expected, abs=4 * float(drawn.std()) / 200_000**0.5)


def test_the_full_estimator_is_the_exact_kl():
    """CHECKS 24, and tokens that neither can emit count for nothing."""
    assert float(full_kl(PI.log(), REF.log())) == pytest.approx(EXACT_KL, abs=1e-12)
    impossible = torch.tensor([-torch.inf], dtype=torch.float64)
    padded = full_kl(torch.cat([PI.log(), impossible]), torch.cat([REF.log(), impossible]))
    assert float(padded) == pytest.approx(EXACT_KL, abs=1e-12)
    wider = full_kl(torch.cat([PI.log(), impossible]), torch.cat([REF.log() - 0.1, torch.tensor([-2.35])]))
    assert torch.isfinite(wider)


def test_positive_where_the_policy_likes_a_token_more():
    """CHECKS 23: so that subtracting it from the reward lowers the reward."""
    assert k1(torch.tensor(-1.0) - torch.tensor(-2.0)) > 0
    assert k1(torch.tensor(-2.0) - torch.tensor(-1.0)) < 0


def test_full_needs_both_distributions():
    with pytest.raises(ConfigError, match=r"kl_estimator='full' needs both distributions.*kl_mode='deferred'"):
        estimate_kl("full", torch.zeros(1))


@pytest.mark.parametrize(
    ("kl", "episodes", "factor"),
    [
        (6.0, 256, 1.0),  # on target
        (6.6, 256, 1 + 0.1 * 256 / 10_000),
        (5.4, 256, 1 - 0.1 * 256 / 10_000),
        (60.0, 256, 1 + 0.2 * 256 / 10_000),  # clipped at +0.2
        (0.0, 256, 1 - 0.2 * 256 / 10_000),  # clipped at -0.2
        (-3.0, 100, 1 - 0.2 * 100 / 10_000),  # a k1 mean may be negative
    ],
)
def test_adaptive_coefficient_by_hand(kl: float, episodes: int, factor: float):
    """Ziegler et al. 2019, section 2.2: proportional control in log space, error clipped to +-0.2."""
    controller = AdaptiveKL(0.2, target=6.0, horizon=10_000)
    controller.update(kl, episodes)
    assert controller.value == pytest.approx(0.2 * factor, rel=1e-12)


def test_adaptive_coefficient_steers_towards_the_target():
    controller = AdaptiveKL(0.05, target=2.0, horizon=100)
    for _ in range(300):
        controller.update(0.4 / controller.value, 8)  # a policy whose KL falls as the coefficient rises
    assert controller.value == pytest.approx(0.2, rel=0.05)


def test_what_makes_a_controller():
    fixed = make_controller(0.3)
    assert isinstance(fixed, FixedKL)
    fixed.update(100.0, 10)
    assert fixed.value == 0.3
    adaptive = make_controller({"value": 0.1, "target": 4, "horizon": 50})
    assert (adaptive.value, adaptive.target, adaptive.horizon) == (0.1, 4.0, 50.0)
    assert make_controller({"value": 0.1, "target": 4}).horizon == 10_000
    assert make_controller(adaptive) is adaptive


@pytest.mark.parametrize(
    ("kl_coef", "match"),
    [
        (-0.1, "finite number >= 0, got -0.1"),
        (float("nan"), "finite number >= 0"),
        (float("inf"), "finite number >= 0"),
        ("much", "kl_coef must be a number, a mapping or a controller, got 'much'"),
        (None, "kl_coef must be a number"),
        ({"value": 0.1}, r"takes value, target and optionally horizon, got \['value'\]"),
        ({"value": 0.1, "traget": 1.0}, r"got \['traget', 'value'\]"),
        ({"value": 0.1, "target": 0.0}, "needs target > 0 and horizon > 0"),
        ({"value": -1.0, "target": 1.0}, "finite number >= 0"),
        ({"value": "x", "target": 1.0}, "kl_coef"),
    ],
)
def test_coefficients_that_cannot_work(kl_coef: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        make_controller(kl_coef)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(UnknownName, match=r"unknown kl_estimator 'K1'\. Did you mean 'k1'"):
        KLPenalty(None, 0.1, "K1")


class Played(NamedTuple):
    """Whole episodes with what the environment charged step by step."""

    packed: PackedEpisodes
    log_probs: torch.Tensor
    ref_log_probs: np.ndarray
    kl: np.ndarray


@pytest.fixture
def play(make_policy: Callable[..., CausalLMActorCritic]) -> Callable[..., Played]:
    """Play 12 episodes (prompts and responses of mixed lengths) with the log-ratio charged at every step."""

    def play(env: TextGenEnv, policy: CausalLMActorCritic) -> Played:
        sequences, firsts, log_probs, refs, kl = [], [], [], [], []
        for index in range(12):
            observation, _ = env.reset(seed=index, options={"prompt_index": index % len(env.prompts)})
            firsts.append(int((observation >= 0).sum()))
            # Ended by an EOS after 2 to 8 tokens; at 8 the limit has ended it.
            for step in range(2 + 3 * index % 7):
                state = torch.from_numpy(observation)[None]
                token = torch.ones(1, dtype=torch.int64) if step == 1 + 3 * index % 7 else policy.step(state).tokens
                log_prob = float(policy.evaluate(pack_observations(state, token)).log_probs.detach())
                observation, _, terminated, _, info = env.step(TokenAction(token, log_prob))
                log_probs.append(log_prob)
                refs.append(info["ref_log_prob"])
                kl.append(info["kl"])
                if terminated:
                    break
            assert terminated
            sequences.append(observation[observation >= 0])
        packed = pack_suffixes(sequences, firsts, "cpu")
        assert len({len(ids) for ids in sequences}) > 3, "lengths are not mixed"
        return Played(packed, torch.tensor(log_probs), np.array(refs), np.array(kl))

    return play


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"top_k": 200, "temperature": 1.3}])
def test_whole_episodes_equal_the_stepwise_charge(
    estimator: str, sampling: dict[str, float], tiny_task: Task, make_policy: Any, play: Any
):
    """CHECKS 4: one teacher-forced pass against the cached steps, mixed lengths, to 1e-5 in fp32."""
    env = TextGenEnv(tiny_task, kl_mode="log_ratio", kl_estimator=estimator, sampling=sampling)
    policy = make_policy(sampling=env.rules.sampling)
    played = play(env, policy)
    terms = env.kl_penalty(played.packed, played.log_probs)
    np.testing.assert_allclose(terms.ref_log_probs.numpy(), played.ref_log_probs, atol=1e-5, rtol=0)
    # k3 has e^|log-ratio| in it: there the same error in the log-prob counts relative to the value.
    np.testing.assert_allclose(terms.kl.numpy(), played.kl, atol=1e-5, rtol=1e-5)
    assert np.abs(played.kl).max() > 0.5, "the policy is the reference: the test shows nothing"


def test_bf16_stays_within_its_own_tolerance(tiny_task: Task, make_policy: Any, make_model: Any, play: Any):
    """CHECKS 4: bf16 keeps 8 bits, so log-probs of about 5 nats agree to 0.15; their mean much closer."""
    env = TextGenEnv(tiny_task, kl_mode="log_ratio", dtype="bfloat16")
    played = play(env, make_policy(make_model("llama", seed=1).bfloat16()))
    assert env.kl_penalty.reference.lm.dtype == torch.bfloat16
    error = env.kl_penalty(played.packed, played.log_probs).ref_log_probs.numpy() - played.ref_log_probs
    assert np.abs(error).max() < 0.15
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() > 1e-5, "the model did not run in bf16"


def test_the_full_estimator_over_episodes_by_brute_force(tiny_task: Task, make_policy: Any, make_model: Any, play: Any):
    """CHECKS 24: every prefix alone through both plain models."""
    env = TextGenEnv(tiny_task, kl_mode="log_ratio", sampling={"temperature": 0.8})
    policy = make_policy(sampling=env.rules.sampling)
    played = play(env, policy)
    penalty = KLPenalty(env.kl_penalty.reference, 0.1, "full")
    terms = penalty(played.packed, played.log_probs, policy).kl
    reference = make_model("llama")
    for m in range(0, len(played.packed), 5):
        row, column = int(played.packed.rows[m]), int(played.packed.columns[m])
        prefix = played.packed.input_ids[row : row + 1, : column + 1]
        with torch.no_grad():
            logits = [model(input_ids=prefix).logits[0, -1].double() / 0.8 for model in (policy.model, reference)]
        logits = [each.masked_fill(policy.banned, -torch.inf) for each in logits]
        expected = full_kl(*(each.log_softmax(-1) for each in logits))
        assert float(terms[m]) == pytest.approx(float(expected), abs=1e-5)
    assert (terms >= 0).all()
    with pytest.raises(ConfigError, match="pass policy= the actor-critic"):
        penalty(played.packed, played.log_probs)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5}])
def test_policy_equal_to_the_reference_has_no_kl(
    estimator: str, sampling: dict[str, float], tiny_task: Task, make_policy: Any, make_model: Any
):
    """CHECKS 6, for whole episodes and every estimator."""
    env = TextGenEnv(tiny_task, kl_mode="deferred", kl_estimator=estimator, sampling=sampling)
    policy = make_policy(make_model("llama"), sampling=env.rules.sampling)
    sequences = []
    for row in range(6):
        ids = torch.tensor(env.prompts[row % 4].ids)
        for _ in range(6):
            ids = torch.cat([ids, policy.step(torch.cat([ids, torch.full((32 - len(ids),), -1)])[None]).tokens])
        sequences.append(ids.numpy())
    packed = pack_suffixes(sequences, [len(ids) - 6 for ids in sequences], "cpu")
    log_probs = policy.evaluate(packed).log_probs.detach()
    terms = env.kl_penalty(packed, log_probs, policy)
    assert float(terms.kl.abs().max()) < 1e-5


def test_the_penalty_passes_finished_episodes_to_its_controller():
    penalty = KLPenalty(None, {"value": 0.2, "target": 6.0, "horizon": 10_000})
    penalty.update(0.0, 256)
    assert penalty.coef == pytest.approx(0.2 * (1 - 0.2 * 256 / 10_000))
    before = penalty.coef
    penalty.update(float("nan"), 10)
    penalty.update(5.0, 0)
    assert penalty.coef == before


def test_a_pickled_penalty_leaves_the_reference_behind():
    """It goes into configurations; weights do not belong there, and using it says what is missing."""
    restored = pickle.loads(pickle.dumps(TextGenEnv("exact", kl_coef=0.75).kl_penalty))
    assert restored.coef == 0.75
    assert restored.reference is None
    with pytest.raises(ConfigError, match=r"no reference model; take the one of the environment"):
        restored(pack_suffixes([np.array([0, 1])], [1], "cpu"), torch.zeros(1))
