"""Rewards of rewards: ensembles, normalisation, weights of each episode's own, and what they remember."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, InvalidScore, UnknownName
from textrl_env.rewards import (
    CompositeReward,
    EnsembleReward,
    FunctionReward,
    NormalizedReward,
    TokenFunctionReward,
    check_reward,
    make_reward,
    score_episodes,
    score_newest_tokens,
)
from textrl_env.rewards.protocol import as_measured, load_state_of, state_of

PROMPTS = ["p"] * 3
COMPLETIONS = ["a", "bb", "cccc"]


def letters(prompts: list, completions: list, **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def minus(prompts: list, completions: list, **columns: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


def zero(prompts: list, completions: list, **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def odd_tokens(prompts: list, completion_ids: list, **columns: Any) -> list[float]:
    return [float(ids[-1] % 2) for ids in completion_ids]


def newest(prompts: list, completion_ids: list, **columns: Any) -> list[float]:
    return [float(ids[-1]) for ids in completion_ids]


# Ensembles


@pytest.mark.parametrize(
    ("combine", "wanted"),
    [
        # members 1, -1, 0 times the length: mean 0, least -length, variance 2/3 length^2
        ("mean", [0, 0, 0]),
        ("worst", [-1, -2, -4]),
        ("uncertainty", [-0.3 * 2 / 3, -0.3 * 8 / 3, -0.3 * 32 / 3]),
    ],
)
def test_an_ensemble_by_hand(combine: str, wanted: list[float]) -> None:
    reward = EnsembleReward([letters, minus, zero], combine, 0.3)
    scored = score_episodes(reward, PROMPTS, COMPLETIONS)
    np.testing.assert_allclose(scored.scores, wanted, atol=1e-12)
    assert list(scored.parts) == ["letters", "minus", "zero", "mean", "spread"]
    np.testing.assert_allclose(scored.parts["spread"] ** 2, [2 / 3, 8 / 3, 32 / 3])
    np.testing.assert_array_equal(scored.parts["letters"], [1, 2, 4])
    assert reward(prompts=PROMPTS, completions=COMPLETIONS, trainer_state=None) == pytest.approx(wanted)
    assert repr(reward).startswith(f"EnsembleReward([letters, minus, zero], combine='{combine}'")
    check_reward(reward)


def test_members_that_agree_are_not_charged() -> None:
    reward = EnsembleReward([letters, letters], "uncertainty", 5.0)
    assert reward(PROMPTS, COMPLETIONS) == [1, 2, 4]
    assert list(reward.rewards) == ["letters", "letters_2"]


def test_token_scores_are_combined_token_by_token() -> None:
    members = {"a": TokenFunctionReward(odd_tokens), "b": TokenFunctionReward(newest)}
    ids = [[4, 3], [2]]  # odd: 1, 0; newest: 3, 2
    for combine, wanted in (("mean", [2, 1]), ("worst", [1, 0]), ("uncertainty", [2 - 0.5 * 1, 1 - 0.5 * 1])):
        scores = score_newest_tokens(EnsembleReward(members, combine), ["p", "p"], ids)
        np.testing.assert_allclose(scores, wanted)
    assert EnsembleReward([letters, zero]).score_tokens is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([letters],), "at least two members, got 1"),
        (([],), "at least two members, got 0"),
        ((letters,), "in a list or a dict, got function"),
        (([letters, "embedded"],), "must be a reward, got 'embedded'"),
        (({"mean": letters, "b": zero},), "cannot be named 'mean'"),
        (([letters, TokenFunctionReward(newest)],), "only newest do"),
        (([letters, zero], "median"), "unknown way to combine an ensemble 'median'"),
        (([letters, zero], "uncertainty", -1), "must be >= 0"),
        (([letters, zero], "uncertainty", float("nan")), "coefficient must be a finite number"),
    ],
)
def test_bad_ensembles(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsembleReward(*arguments)


def test_a_member_that_fails_is_named() -> None:
    def broken(prompts: list, completions: list, **columns: Any) -> list[float]:
        return [float("nan")] * len(completions)

    with pytest.raises(InvalidScore, match="'broken' returned nan for sample 0"):
        EnsembleReward([letters, broken])(PROMPTS, COMPLETIONS)


# Normalisation


def test_fixed_numbers_shift_scale_and_clip() -> None:
    reward = NormalizedReward(letters, mean=2.0, std=0.5, clip=3.0)
    scored = score_episodes(reward, PROMPTS, COMPLETIONS)
    assert scored.scores.tolist() == [-2, 0, 3]
    assert scored.parts["letters"].tolist() == [1, 2, 4]
    assert state_of(reward) == {}
    check_reward(reward)
    assert NormalizedReward(letters, mean=0, std=1, clip=2)(PROMPTS, COMPLETIONS) == [1, 2, 2]


def test_running_numbers_are_those_of_all_scores_so_far() -> None:
    reward = NormalizedReward(letters)
    texts = ["x" * length for length in np.random.default_rng(0).integers(0, 50, size=40)]
    seen: list[float] = []
    for start in (0, 1, 4, 5, 20):
        some = texts[start : start + 7]
        seen += [len(text) for text in some]
        scores = reward(["p"] * len(some), some)
        assert (reward.mean, reward.std) == pytest.approx((np.mean(seen), np.std(seen)))
        assert scores == pytest.approx([(len(text) - np.mean(seen)) / np.std(seen) for text in some])
    assert reward.count == len(seen)


def test_a_moving_mean_forgets() -> None:
    reward = NormalizedReward(letters, momentum=0.5)
    reward(["p"] * 2, ["", "xx"])  # mean 1, variance 1
    reward(["p"] * 2, ["xxxx", "xxxxxx"])  # mean 5, variance 1: halves, and a quarter of the squared difference
    assert (reward.mean, reward.std**2) == pytest.approx((3.0, 1 + 16 / 4))


def test_one_score_and_equal_scores_are_divided_by_one() -> None:
    reward = NormalizedReward(letters)
    assert reward(["p"], ["xxx"]) == [0.0]
    assert reward(["p"], ["xxx"]) == [0.0]
    assert reward([], []) == []
    assert reward.std == 1.0


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("score", [0.1, 0.3, 1.1, -0.7])
def test_equal_scores_whose_mean_is_not_exact_are_paid_nothing(score: float, momentum: float | None) -> None:
    """0.1 seven times has the variance 1.9e-34 in floating point, and its root would make 1 of a rounding error."""
    reward = NormalizedReward(lambda prompts, completions, **columns: [score] * len(prompts), momentum=momentum)
    for count in (7, 5, 3, 64):
        assert reward(["p"] * count, ["x"] * count) == [0.0] * count
    assert reward.std == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": 1.0}, "both mean and std, or neither"),
        ({"mean": 0.0, "std": 0.0}, "std must be above 0"),
        ({"mean": float("nan"), "std": 1.0}, "mean must be a finite number"),
        ({"clip": -1}, "clip must be above 0"),
        ({"momentum": 1.0}, "momentum must be above 0 and below 1"),
        ({"mean": 0.0, "std": 1.0, "momentum": 0.9}, "for a mean and std that are not given"),
    ],
)
def test_bad_normalisations(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NormalizedReward(letters, **arguments)


def test_token_scores_come_through_a_normalisation() -> None:
    reward = NormalizedReward(CompositeReward([letters, (TokenFunctionReward(newest), 2.0)]), mean=0, std=2)
    np.testing.assert_array_equal(score_newest_tokens(reward, ["p"], [[1, 4]]), [8.0])
    assert NormalizedReward(letters).score_tokens is None


def test_what_is_remembered_moves_to_an_equal_reward() -> None:
    def build() -> Any:
        return make_reward([letters, {"reward": {"a": minus, "b": zero}, "normalize": True, "weight": 2.0}])

    first, second = build(), build()
    first(PROMPTS, COMPLETIONS)
    load_state_of(second, json.loads(json.dumps(state_of(first))))
    assert second(PROMPTS, ["xx"] * 3) == first(PROMPTS, ["xx"] * 3)
    with pytest.raises(ConfigError, match="the saved state is of"):
        make_reward([letters, zero]).load_state_dict(state_of(first))
    with pytest.raises(ConfigError, match="remembers, and 'letters' does not"):
        load_state_of(letters, {"mean": 1.0})


def test_an_evaluation_measures_the_score_as_it_is() -> None:
    reward = CompositeReward([(NormalizedReward(letters), 2.0), (NormalizedReward(minus, mean=1, std=2), 1.0)])
    reward(PROMPTS, COMPLETIONS)
    remembered = state_of(reward)
    measured = as_measured(reward)
    assert measured(PROMPTS, COMPLETIONS) == [2 * n + (-n - 1) / 2 for n in (1, 2, 4)]
    assert state_of(reward) == remembered
    assert state_of(measured) == {}
    assert as_measured(letters) is letters


# In environments

SPEC = [{"reward": "length", "normalize": {"clip": 2.0}}, {"reward": "missing_eos", "weight": 0.5}]


def vector_env(reward: Any = None) -> TextGenVectorEnv:
    return TextGenVectorEnv(4, task="exact", kl_mode="deferred", reward=SPEC if reward is None else reward)


def scores(env: TextGenVectorEnv, steps: int) -> list[float]:
    found = []
    for step in range(steps):
        env.step(np.full(4, step % 4))
        found += [episode.score for _, episode in env.transition.episodes]
    return found


@pytest.mark.parametrize(
    "copied",
    [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy, lambda env: resumed(env)],
    ids=["pickle", "deepcopy", "state_dict"],
)
def test_an_environment_goes_on_with_what_its_reward_remembers(copied: Any) -> None:
    env = vector_env()
    env.reset(seed=0)
    assert scores(env, 7)
    twin = copied(env)
    remembered = state_of(env.rules.reward)
    assert remembered["normalized_length"]["count"] > 0
    assert state_of(twin.rules.reward) == remembered
    later = scores(env, 9)
    assert state_of(twin.rules.reward) == remembered, "the copy shares the original's numbers"
    assert scores(twin, 9) == later


def resumed(env: TextGenVectorEnv) -> TextGenVectorEnv:
    twin = vector_env()
    twin.reset(seed=9)
    state = env.state_dict()
    twin.load_state_dict({**state, "reward": json.loads(json.dumps(state["reward"]))})
    return twin


def test_the_parts_are_in_the_info_and_the_identity_holds() -> None:
    env = vector_env()
    env.reset(seed=1)
    while not env.step(np.full(4, 1))[2].any():
        pass
    _, episode = env.transition.episodes[0]
    assert {"normalized_length", "normalized_length/length", "missing_eos"} <= episode.score_parts.keys()
    assert episode.finish_reason == "length"
    assert episode.score_parts["missing_eos"] == -1.0
    assert episode.score == pytest.approx(
        episode.score_parts["normalized_length"] + 0.5 * episode.score_parts["missing_eos"]
    )


# Weights of each episode's own


def test_each_episode_has_its_own_weights() -> None:
    reward = CompositeReward({"long": letters, "short": (minus, 0.5)}, weights_column="wish")
    wishes = [{"long": 1, "short": 0}, [0.0, 2.0], {"short": None}]
    scored = score_episodes(reward, PROMPTS, COMPLETIONS, None, {"wish": wishes})
    assert scored.scores.tolist() == [1.0, -4.0, 4 - 0.5 * 4]
    assert scored.parts["long"].tolist() == [1, 2, 4]
    assert "weights_column='wish'" in repr(reward)


def test_tokens_are_weighted_by_episode_too() -> None:
    reward = CompositeReward([TokenFunctionReward(newest), letters], weights_column="w")
    np.testing.assert_array_equal(
        score_newest_tokens(reward, ["p", "p"], [[1, 4], [3]], {"w": [[2, 1], [-1, 1]]}), [8, -3]
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "must hold a weight for each of a, b"),
        ({"c": 1.0}, "must hold a weight for each of a, b"),
        ("1, 2", "must hold a weight for each of a, b"),
        ({"a": "1"}, "sample 1: a must be a finite number, got '1'"),
        ([1.0, float("inf")], "sample 1: b must be a finite number"),
    ],
)
def test_bad_weights_name_their_row(value: Any, message: str) -> None:
    reward = CompositeReward({"a": letters, "b": minus}, weights_column="w")
    with pytest.raises(ConfigError, match=message):
        score_episodes(reward, ["p"] * 2, ["x"] * 2, None, {"w": [[1, 1], value]})
    with pytest.raises(ConfigError, match=r"the column 'w', which the prompts do not have \(columns: other\)"):
        score_episodes(reward, ["p"], ["x"], None, {"other": [1]})
    with pytest.raises(ConfigError, match="must be the name of a column"):
        CompositeReward([letters], weights_column=3)  # type: ignore[arg-type]


def test_an_environment_pays_by_the_prompts_weights() -> None:
    prompts = [{"prompt": "a", "w": [1.0, 0.0]}, {"prompt": "b", "w": [0.0, 1.0]}]
    spec = {"reward": {"one": lambda prompts, completions: [1.0] * len(prompts), "two": zero}}
    env = TextGenVectorEnv(
        2, task="exact", kl_mode="deferred", prompts=prompts, reward={**spec, "arguments": {"weights_column": "w"}}
    )
    env.reset(seed=0)
    paid = {}
    for _ in range(12):
        env.step(np.full(2, 2))
        paid |= {episode.prompt: episode.score for _, episode in env.transition.episodes}
    assert paid == {"a": 1.0, "b": 0.0}


# Specifications


def test_specifications_of_all_of_them() -> None:
    """As in YAML: mappings, lists, texts and numbers."""
    ensemble = make_reward({"reward": ["length", "repetition"], "arguments": {"combine": "worst"}})
    assert isinstance(ensemble, EnsembleReward)
    assert ensemble.combine == "worst"
    assert isinstance(make_reward(["length", "repetition"], combine="mean"), EnsembleReward)
    normalized = make_reward({"reward": "length", "arguments": {"target": 3}, "normalize": {"mean": 1, "std": 2}})
    assert repr(normalized) == "NormalizedReward(LengthReward(target=3), mean=1, std=2)"
    pair = {"reward": ["length", "repetition"], "arguments": {"combine": "mean"}, "weight": 2}
    nested = make_reward([pair, "length"])
    assert isinstance(nested, CompositeReward)
    assert list(nested.weights.values()) == [2, 1]
    assert isinstance(make_reward({"reward": "length"}), type(make_reward("length")))
    weighted = make_reward({"a": "length", "b": "repetition"}, weights_column="w")
    assert isinstance(weighted, CompositeReward)
    assert weighted.weights_column == "w"
    limited = make_reward({"reward": letters, "arguments": {"timeout": 3.0}})
    assert isinstance(limited, FunctionReward)
    assert limited.timeout == 3.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"reward": "length", "normalize": 3}, "normalize must be true, or the arguments"),
        ({"reward": "length", "normalize": {"clap": 3}}, "Did you mean 'clip'"),
        ([{"reward": "length", "arguments": [1]}], "arguments of a reward must be a mapping"),
        ({"reward": "length", "arguments": {"targ": 1}}, r"does not take the arguments \['targ'\]"),
        ({"reward": [("length", 2), "repetition"], "arguments": {"combine": "mean"}}, "have no weights"),
        ({"reward": ["length"], "arguments": {"combine": "mean", "weights_column": "w"}}, "or weights_column; got"),
        ([{"reward": "length", "weigth": 2}], "Did you mean 'weight'"),
    ],
)
def test_bad_specifications(spec: Any, message: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=message):
        make_reward(spec)
