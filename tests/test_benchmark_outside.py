"""The benchmark's algorithms outside the environment's RL libraries: the reference, best-of-n, expert iteration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.algorithms.built_in import best_of_n, expert_iteration, reference
from textrl_agents.algorithms.built_in.best_of_n import kl_bound
from textrl_agents.algorithms.built_in.expert_iteration import kept
from textrl_agents.algorithms.cell import Cell, Trained
from textrl_agents.algorithms.cell_setup import training_env
from textrl_agents.algorithms.response_groups import best, groups
from textrl_agents.evaluation import evaluate, paired_difference
from textrl_agents.evaluation.heldout_env import sibling_env
from textrl_agents.rollout import collect, drawn_prompts
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.models import ScriptedModel
from textrl_env.tasks import Task
from textrl_env.tasks.enumeration import ExactValue
from textrl_env.trajectory import Trajectory


def cell(algorithm: str, budget: int = 0, task: Any = "exact", **settings: Any) -> Cell:
    return Cell(algorithm, task, 0, budget, settings, device="cpu")


def no_record(tokens: int, **means: float) -> None:
    raise AssertionError("nothing is trained, so there is nothing to record")


class Curve(list[tuple[int, dict[str, Any]]]):
    def __call__(self, tokens: int, *, score: float, kl: float | None, length: float) -> None:
        self.append((tokens, {"score": score, "kl": kl, "length": length}))


def heldout(task: Any = "exact", rows: int = 64) -> TextGenVectorEnv:
    return sibling_env(training_env(cell("x", task=task), rows=1), rows)


def response(score: float, name: str = "") -> Trajectory:
    ids = np.array([1])
    return Trajectory.of_response(ids, ids, response=name, finish_reason="eos", score=score, kl_coef=0.1)


@pytest.fixture(scope="module")
def exact() -> ExactValue:
    env = training_env(cell("x"), rows=1)
    return ExactValue(env.rules, env.prompts)


@pytest.fixture(scope="module")
def expert() -> tuple[Trained, Curve]:
    """Five rounds on `exact`."""
    curve = Curve()
    return expert_iteration.train(cell("expert_iteration", 8000, rounds=5, learning_rate=3e-3), curve), curve


class TestReference:
    def test_it_is_the_zero_point(self) -> None:
        trained = reference.train(cell("reference"), no_record)
        result = trained.evaluate(heldout(), 128, 0)
        assert trained.tokens == 0
        assert result["kl"].mean == pytest.approx(0.0, abs=1e-5)
        assert result["penalized_return"].mean == pytest.approx(result["score"].mean, abs=1e-5)

    def test_it_has_no_settings(self) -> None:
        with pytest.raises(UnknownName, match="unknown setting of reference 'n'"):
            reference.train(cell("reference", n=2), no_record)


class TestBestOfN:
    def test_the_best_and_of_equal_ones_the_first(self) -> None:
        group = [response(1, "a"), response(2, "b"), response(2, "c"), response(-1, "d")]
        assert best(group).response == "b"

    def test_the_bound_by_hand(self) -> None:
        assert kl_bound(1) == 0.0
        assert kl_bound(4) == pytest.approx(1.3862944 - 0.75)

    def test_score_and_kl_against_the_enumerated_truth(self, exact: ExactValue) -> None:
        """P(max <= s) = P(score <= s)^n; the true KL, with its ties, stays below the bound."""
        n = 4
        trained = best_of_n.train(cell("best_of_n", n=n), no_record)
        result = trained.evaluate(heldout(), 768, 0)
        probs = np.exp(exact.ref_log_probs)
        expected, kls = [], []
        for scores, prob in zip(exact.scores, probs, strict=True):
            levels = np.unique(scores)
            mass = np.array([prob[scores == level].sum() for level in levels])
            chosen = np.diff(np.concatenate([[0.0], mass.cumsum() ** n]))
            expected.append(float(chosen @ levels))
            kls.append(float((chosen * np.log(chosen / mass)).sum()))
        assert result["score"].mean == pytest.approx(np.mean(expected), abs=2 * result["score"].half_width)
        assert result["score"].mean > exact.reference_value + 4 * result["score"].half_width
        assert result["kl"].mean == pytest.approx(kl_bound(n))
        assert max(kls) < kl_bound(n)
        coef = heldout().kl_penalty.coef
        assert result["penalized_return"].mean == pytest.approx(result["score"].mean - coef * kl_bound(n))

    def test_records_are_the_best_of_the_candidates(self) -> None:
        trained, env = best_of_n.train(cell("best_of_n", n=3), no_record), heldout()
        result = trained.evaluate(env, 64, 7)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            candidates = collect(trained.policy, env, prompts=drawn_prompts(env, 64, 7), repeats=3)
        for answer, group in zip(result.episodes, groups(candidates), strict=True):
            scores = [one.score for one in group]
            first = group[scores.index(max(scores))]
            assert (answer.score, answer.response) == (max(scores), first.response)
            assert answer.surprisal == pytest.approx(-first.log_probs.sum(), abs=1e-5)
            assert answer.episode_return == pytest.approx(answer.score - env.kl_penalty.coef * kl_bound(3))

    def test_it_answers_the_prompts_of_every_other_policy(self) -> None:
        env = heldout(rows=8)
        plain = evaluate(reference.train(cell("reference"), no_record).policy, env=env, episodes=20, seed=3)
        answered = best_of_n.train(cell("best_of_n"), no_record).evaluate(env, 20, 3)
        assert len({episode.prompt for episode in plain.episodes}) == 2
        assert paired_difference(plain, answered)["score"].mean > 0  # raises where the prompts differ

    def test_all_candidates_are_paid_for(self, tiny_tokenizer: Any) -> None:
        model = ScriptedModel.saying(tiny_tokenizer, "and", vocab_size=320)
        task = Task(
            name="said",
            prompts=["x"],
            heldout_prompts=["y"],
            reward=lambda prompts, completions, **columns: [0.0] * len(prompts),
            model=lambda: (model, tiny_tokenizer),
            max_prompt_tokens=4,
            max_new_tokens=8,
        )
        trained = best_of_n.train(cell("best_of_n", task=task, n=5), no_record)
        length = len(tiny_tokenizer("and", add_special_tokens=False)["input_ids"]) + 1
        result = trained.evaluate(heldout(task, rows=4), 8, 0)
        assert [len(episode) for episode in result.episodes] == [length] * 8
        assert trained.tokens == 5 * 8 * length
        trained.evaluate(heldout(task, rows=4), 4, 0)
        assert trained.tokens == 5 * 12 * length

    def test_the_callers_generator_is_untouched(self) -> None:
        trained = best_of_n.train(cell("best_of_n"), no_record)
        before = torch.get_rng_state()
        first = trained.evaluate(heldout(), 64, 0)
        assert torch.equal(torch.get_rng_state(), before)
        assert first == trained.evaluate(heldout(), 64, 0)

    def test_refusals(self) -> None:
        with pytest.raises(UnknownName, match=r"unknown setting of best_of_n 'm'.*Known: n"):
            best_of_n.train(cell("best_of_n", m=2), no_record)
        with pytest.raises(ConfigError, match="n must be a whole number >= 1, got 0"):
            best_of_n.train(cell("best_of_n", n=0), no_record)
        with pytest.raises(ConfigError, match="episodes must be a whole number >= 2"):
            best_of_n.train(cell("best_of_n"), no_record).evaluate(heldout(), 1, 0)


class TestExpertIteration:
    def test_the_score_rises(self, expert: tuple[Trained, Curve], exact: ExactValue) -> None:
        result, curve = expert
        scores = [point["score"] for _, point in curve]
        assert scores[-1] > scores[0] + 1
        assert curve[0][1]["kl"] == pytest.approx(0.0, abs=1e-5)
        assert curve[-1][1]["kl"] > 0.5
        assert result.evaluate(heldout(), 256, 0)["score"].mean > exact.reference_value + 1

    def test_the_budget_is_spent_and_every_round_reported(self, expert: tuple[Trained, Curve]) -> None:
        result, curve = expert
        tokens = [at for at, _ in curve]
        assert len(tokens) == 5
        assert tokens == sorted(tokens)
        assert tokens[-1] == result.tokens
        assert result.tokens == pytest.approx(8000, rel=0.01)

    def test_a_seed_gives_the_same_weights(self) -> None:
        runs = [expert_iteration.train(cell("expert_iteration", 1000, rounds=2), Curve()) for _ in range(2)]
        first, second = (dict(run.policy.model.named_parameters()) for run in runs)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_what_is_kept(self) -> None:
        equal = [response(9, "x"), response(9, "y")]
        sampled = [[response(1, "a"), response(2, "b")], equal, [response(5, "c"), response(5, "d"), response(0, "e")]]
        names = {keep: [one.response for one in kept(sampled, keep)] for keep in ("best", "quantile")}
        assert names == {"best": ["b", "c"], "quantile": ["c", "d"]}

    def test_one_step_by_hand(self) -> None:
        """Plain SGD on one response moves the weights by the gradient of its mean negative log-likelihood."""
        env = training_env(cell("x"), rows=2)
        policy = reference.train(cell("reference"), no_record).policy
        responses = collect(policy, env, prompts=[env.prompts[0]])
        ids = torch.from_numpy(responses[0].ids)[None]
        labels = ids.clone()
        labels[:, : len(responses[0].prompt_ids)] = -100
        policy.model(input_ids=ids, labels=labels).loss.backward()  # the mean over the response's tokens
        weight = policy.model.lm_head.weight
        expected = weight.detach() - 0.1 * weight.grad
        optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
        settings = expert_iteration.ExpertIterationSettings(epochs=1, max_grad_norm=1e6)
        expert_iteration.fine_tune(policy, optimizer, responses, settings, np.random.default_rng(0))
        assert torch.allclose(weight, expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"learning_rat": 1.0}, "unknown setting of expert_iteration 'learning_rat'.*mean 'learning_rate'"),
            ({"n": 1}, "n must be a whole number >= 2, got 1"),
            ({"keep": "worst"}, "keep must be one of best, quantile, got 'worst'"),
            ({"learning_rate": "fast"}, "learning_rate must be a number >= 0 or a mapping"),
            ({"learning_rate": {"peek": 1.0}}, "a learning rate takes either peak or scale"),
            ({"rounds": 0}, "rounds must be a whole number >= 1"),
            ({"max_grad_norm": math.nan}, "max_grad_norm must be a number > 0"),
        ],
    )
    def test_refusals(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            expert_iteration.train(cell("expert_iteration", 100, **settings), Curve())
