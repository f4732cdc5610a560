"""The KL where the policy is cut and the reference is not: by enumeration of every response, in every mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from suffixes import pack_suffixes

from textrl_env import KLPenalty, TextGenVectorEnv, TokenAction
from textrl_env.kl import KL_ESTIMATORS
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, Reference, SamplingParams, ScriptedModel
from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.tasks.enumeration import enumerate_responses

STEPS = 3
PROMPT = 0  # the letter a
CUTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "top-k": {"top_k": 2},
    "top-p": {"top_p": 0.6},
    "top-p, temperature": {"top_p": 0.9, "temperature": 0.7},
    "top-k, top-p": {"top_k": 3, "top_p": 0.8},
}


def mean_of_one_step(policy: list[float], reference: list[float], top_p: float) -> tuple[float, float, float]:
    """By hand: the means of k1, k2 and k3 under the policy's nucleus."""
    order = sorted(range(len(policy)), key=lambda token: -policy[token])
    kept, mass = [], 0.0
    for token in order:
        if mass < top_p:
            kept.append(token)
            mass += policy[token]
    pairs = [(policy[token] / mass, reference[token]) for token in kept]
    return (
        sum(p * math.log(p / q) for p, q in pairs),
        sum(p * math.log(p / q) ** 2 / 2 for p, q in pairs),
        sum(p * (q / p - 1 + math.log(p / q)) for p, q in pairs),
    )


def test_the_mean_charge_under_a_nucleus_is_not_negative():
    """It was -0.041: the likelier token was charged against a renormalised reference, the other against a whole one."""
    policy, reference = [0.83, 0.15, 0.02], [0.90, 0.08, 0.02]
    k1, k2, k3 = mean_of_one_step(policy, reference, 0.9)
    assert k1 == pytest.approx(0.0478, abs=1e-4)
    core, penalties = one_step(policy, reference, {"top_p": 0.9})
    packed = pack_suffixes([np.array([0, token]) for token in (0, 1)], [1, 1], "cpu")
    log_probs = core.evaluate(packed).log_probs.detach()
    for name, wanted in zip(("k1", "k2", "k3"), (k1, k2, k3), strict=True):
        mean = float((log_probs.exp() * penalties[name](packed, log_probs).kl).sum())
        assert mean == pytest.approx(wanted, abs=1e-5), name
    assert penalties["full"](packed, log_probs, core).kl.tolist() == pytest.approx([k1, k1], abs=1e-5)


def test_at_the_reference_the_charge_is_minus_the_log_of_the_mass_kept():
    """CHECKS 6."""
    probs = [0.5, 0.3, 0.15, 0.05]
    core, penalties = one_step(probs, probs, {"top_k": 2})
    packed = pack_suffixes([np.array([0, token]) for token in (0, 1)], [1, 1], "cpu")
    log_probs = core.evaluate(packed).log_probs.detach()
    for name in ("k1", "full"):
        assert penalties[name](packed, log_probs, core).kl.tolist() == pytest.approx([-math.log(0.8)] * 2, abs=1e-6)


def one_step(
    policy: list[float], reference: list[float], cut: dict[str, Any]
) -> tuple[CausalLMActorCritic, dict[str, KLPenalty]]:
    """A policy and a reference whose next-token distributions are written down, over the letters of `exact`."""
    _, tokenizer = letter_model()
    sampling = SamplingParams(**cut)
    core = CausalLMActorCritic(scripted(policy), tokenizer, max_length=2, sampling=sampling)
    frozen = Reference(scripted(reference), core.vocabulary, sampling, 2)
    return core, {name: KLPenalty(frozen, 0.1, name) for name in KL_ESTIMATORS}


def scripted(probs: list[float]) -> Any:
    """The same distribution after every letter; what is left out has a probability of e^-30."""
    row = [math.log(p) for p in probs] + [-30.0] * (6 - len(probs))
    return ScriptedModel([row] * 6, eos_token_id=5)


class Enumerated(NamedTuple):
    """Every response that the policy can write, with what each token of it is."""

    env: Callable[[str], TextGenVectorEnv]
    policy: CausalLMActorCritic
    responses: list[np.ndarray]
    packed: PackedEpisodes
    log_probs: np.ndarray  # float64 [M], of the policy, by plain loops
    ref_log_probs: np.ndarray
    full: np.ndarray  # float64 [M], of the state of each
    probability: np.ndarray  # float64 [responses]


def plain_log_probs(model: Any, ids: np.ndarray, cut: dict[str, Any]) -> np.ndarray:
    """log pi over the six letters after `ids`, with the cut written out as a loop; float64 [6]."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1].double().numpy()
    weights = np.exp((logits - logits.max()) / cut.get("temperature", 1.0))
    order = list(np.argsort(-weights))[: cut.get("top_k") or 6]
    total, kept, mass = weights[order].sum(), [], 0.0
    for token in order:
        if mass < cut.get("top_p", 1.0) * total:
            kept.append(token)
            mass += weights[token]
    probs = np.zeros(6)
    probs[kept] = weights[kept] / weights[kept].sum()
    with np.errstate(divide="ignore"):
        return np.log(probs)


@pytest.fixture(scope="module", params=CUTS)
def enumerated(request: pytest.FixtureRequest) -> Enumerated:
    cut = CUTS[request.param]
    reference, tokenizer = letter_model()
    trained, _ = letter_model()
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 0.15 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    policy = CausalLMActorCritic(trained, tokenizer, max_length=1 + STEPS, sampling=SamplingParams(**cut))

    whole = {"temperature": cut.get("temperature", 1.0)}
    known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    responses, log_probs, ref_log_probs, full, probability = [], [], [], [], []
    for response in enumerate_responses(6, np.array([5]), STEPS):
        ids, rows = np.append([PROMPT], response), []
        for end in range(1, len(ids)):
            state = ids[:end]
            if state.tobytes() not in known:
                models = ((trained.eval(), cut), (reference.eval(), whole))
                known[state.tobytes()] = tuple(plain_log_probs(model, state, how) for model, how in models)  # type: ignore[assignment]
            own, theirs = known[state.tobytes()]
            kept = np.isfinite(own)
            kl = float((np.exp(own[kept]) * (own[kept] - theirs[kept])).sum())
            rows.append((own[ids[end]], theirs[ids[end]], kl))
        if all(math.isfinite(row[0]) for row in rows):
            responses.append(response)
            for into, values in zip((log_probs, ref_log_probs, full), zip(*rows, strict=True), strict=True):
                into += values
            probability.append(math.exp(sum(row[0] for row in rows)))
    packed = pack_suffixes([np.append([PROMPT], response) for response in responses], [1] * len(responses), "cpu")

    def env(estimator: str, kl_mode: str = "deferred") -> TextGenVectorEnv:
        return TextGenVectorEnv(
            len(responses),
            "exact",
            prompts=["a"],
            sampling=cut,
            max_new_tokens=STEPS,
            kl_mode=kl_mode,
            device="cpu",
            kl_estimator=estimator,
            autoreset_mode="SAME_STEP",
        )

    values = map(np.array, (log_probs, ref_log_probs, full, probability))
    return Enumerated(env, policy, responses, packed, *values)


def per_token(estimator: str, enumerated: Enumerated) -> np.ndarray:
    """The terms by their formulas, float64 [M]."""
    ratio = enumerated.log_probs - enumerated.ref_log_probs
    return {"k1": ratio, "k2": ratio**2 / 2, "k3": np.exp(-ratio) - 1 + ratio, "full": enumerated.full}[estimator]


def mean(terms: np.ndarray, enumerated: Enumerated) -> float:
    """Of a response's sum, over the policy's distribution of responses."""
    sums = np.bincount(enumerated.packed.rows.numpy(), terms)
    return float((enumerated.probability * sums).sum())


def test_the_responses_are_all_there_are(enumerated: Enumerated):
    assert enumerated.probability.sum() == pytest.approx(1.0, abs=1e-9)
    got = enumerated.policy.evaluate(enumerated.packed).log_probs.detach().numpy()
    np.testing.assert_allclose(got, enumerated.log_probs, atol=2e-5)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_whole_episodes_are_charged_the_enumerated_kl(estimator: str, enumerated: Enumerated):
    """CHECKS 24. Each token's charge, and its mean: k1 and full are the KL, and no mean is negative."""
    penalty = enumerated.env(estimator).kl_penalty
    log_probs = torch.from_numpy(enumerated.log_probs)
    terms = penalty(enumerated.packed, log_probs, enumerated.policy).kl.double().numpy()
    wanted = per_token(estimator, enumerated)
    np.testing.assert_allclose(terms, wanted, atol=1e-5, rtol=1e-5)
    assert mean(terms, enumerated) >= 0
    if estimator in ("k1", "full"):
        of_responses = np.bincount(enumerated.packed.rows.numpy(), enumerated.log_probs - enumerated.ref_log_probs)
        assert mean(terms, enumerated) == pytest.approx(float((enumerated.probability * of_responses).sum()), abs=1e-5)


@pytest.mark.parametrize("mode", ["log_ratio", "cross_entropy"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_step_is_charged_what_the_whole_episode_is(estimator: str, mode: str, enumerated: Enumerated):
    """CHECKS 4. A row for each response; rows that have ended play on and are not looked at."""
    env = enumerated.env(estimator, mode)
    env.reset(seed=0)
    lengths = np.array([len(response) for response in enumerated.responses])
    firsts = np.cumsum(lengths) - lengths
    got, sums = np.full(lengths.sum(), np.nan), np.full(len(lengths), np.nan)
    for step in range(STEPS):
        rows = np.flatnonzero(lengths > step)
        tokens, log_probs = np.full(len(lengths), 5), np.full(len(lengths), -1.0)
        tokens[rows] = [enumerated.responses[row][step] for row in rows]
        log_probs[rows] = enumerated.log_probs[firsts[rows] + step]
        env.step(TokenAction(tokens, log_probs) if mode == "log_ratio" else tokens)
        assert env.transition is not None
        terms = env.transition.kl if mode == "log_ratio" else -env.transition.ref_log_probs
        got[firsts[rows] + step] = terms[rows]
        for row, episode in env.transition.episodes:
            if lengths[row] == step + 1:
                sums[row] = episode.kl_sum
    wanted = per_token(estimator, enumerated) if mode == "log_ratio" else -enumerated.ref_log_probs
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(sums, np.bincount(enumerated.packed.rows.numpy(), wanted), atol=3e-5, rtol=1e-5)


def test_k3_lacks_the_references_mass_outside_the_cut(enumerated: Enumerated):
    """Why the docs call it unbiased only where nothing is cut."""
    gap = mean(per_token("k1", enumerated), enumerated) - mean(per_token("k3", enumerated), enumerated)
    cut = enumerated.policy.sampling.truncates
    assert gap > 0.05 if cut else gap == pytest.approx(0.0, abs=1e-9)


def test_the_masks_of_nlpo_are_the_policys_alone():
    """What its lagged copy masks is part of the policy, of which `full` sees the whole; the reference has no mask."""
    pytest.importorskip("stable_baselines3")
    from textrl_agents.sb3.own.nlpo import MaskedActorCritic

    env = TextGenVectorEnv(2, "exact", prompts=["a"], kl_estimator="full", kl_mode="deferred", device="cpu")
    model, tokenizer = letter_model()
    core = MaskedActorCritic(model, tokenizer, mask_top_p=0.5, max_length=6)
    packed = pack_suffixes([np.array([0, token]) for token in range(6)], [1] * 6, "cpu")
    probs = np.exp(plain_log_probs(model.eval(), np.array([0]), {}))
    order = np.argsort(-probs)
    kept = order[: int(np.searchsorted(np.cumsum(probs[order]), 0.5)) + 1]
    log_probs = core.evaluate(packed).log_probs.detach()
    terms = env.kl_penalty(packed, log_probs, core).kl.numpy()
    np.testing.assert_allclose(terms, -math.log(probs[kept].sum()), atol=1e-5)
