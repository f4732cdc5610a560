"""RLlib's rows of `textrl bench speed`: both sides do the same work, and the optimum is one."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from conftest import quick
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from textrl_agents.rllib import make_config
from textrl_agents.speed import speed
from textrl_agents.speed.measurement import Bench
from textrl_agents.speed.names import SPEED_ROWS
from textrl_agents.speed.speed import measure_row
from textrl_agents.speed.training import learning_rows, one_token_task, rllib_rows
from textrl_agents.speed.training.rllib_rows import RLlibPhases
from textrl_env.tasks.assembly import assemble

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CPU = torch.device("cpu")
TINY = {
    "rllib: sampling vs SB3": {"rows": 16, "tokens": 8, "longest": 8},
    "rllib: update vs its default pipeline": {"rows": 4, "tokens": 6},
    "rllib: ratio at the first minibatch": {"rows": 8, "updates": 2},
    "rllib: exact, PPO vs optimum": {"iterations": 1},
    "rllib: share of the rewarded token": {"iterations": 1},
}


def measured(name: str) -> dict[str, Any]:
    def no_workload() -> Any:
        raise AssertionError("RLlib's rows load what they need by name")

    return measure_row(name, Bench(CPU, no_workload, repeats=1), sizes=TINY[name])


@pytest.mark.parametrize("name", quick(["sampling vs SB3"], ["sampling vs SB3", "update vs its default pipeline"]))
def test_rows_of_speeds(name: str) -> None:
    row = measured(f"rllib: {name}")
    assert row["value"] > 0, row["detail"]
    assert "tokens/s" in row["detail"]


def test_the_ratio_row() -> None:
    row = measured("rllib: ratio at the first minibatch")
    assert 0 < row["value"] < 1e-5
    assert row["ok"]
    assert "2 updates" in row["detail"]


@pytest.mark.usefixtures("ray_cluster")
def test_rows_of_trained_policies() -> None:
    exact = measured("rllib: exact, PPO vs optimum")
    assert exact["value"] < 0.9, exact["detail"]  # one batch does not solve it
    assert not exact["ok"]
    assert "with Ray's start" in exact["detail"]
    share = measured("rllib: share of the rewarded token")
    assert share["value"] == pytest.approx(0.265 - 1 / 64, abs=0.04), share["detail"]
    assert not share["ok"]


def test_too_slow_is_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    from textrl_agents.check.known_optimum import ExactResult

    monkeypatch.setattr(learning_rows, "train_exact_with_rllib", lambda *_, **__: ExactResult(None, 0.99, 91.0))  # type: ignore[arg-type]
    row = measured("rllib: exact, PPO vs optimum")
    assert row["value"] == 0.99
    assert not row["ok"]


def test_without_rllib_its_rows_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from textrl_env.errors import MissingExtra

    def missing(name: str) -> Any:
        raise MissingExtra("rllib", "ray")

    monkeypatch.setattr(speed.pkgutil, "resolve_name", missing)
    row = measured("rllib: sampling vs SB3")
    assert (row["value"], row["ok"]) == (None, False)
    assert "pip install 'textrl-env[rllib]'" in row["detail"]


def test_every_row_is_measured_here() -> None:
    assert [name for name in SPEED_ROWS if name.startswith("rllib: ")] == list(TINY)


def test_both_pipelines_see_the_same_transitions() -> None:
    """The default pipeline's prefixes give the values, log-probs and advantages of the packed episodes."""
    shared: dict[str, Any] = {
        "num_envs_per_env_runner": 3,
        "rollout_fragment_length": 7,
        "minibatch_size": 21,
        "num_epochs": 1,
        "lr": 0.0,
        "seed": 0,
    }
    env = {"task": "exact", "device": "cpu", "kl_coef": 0.0}
    ours = RLlibPhases(make_config("ppo", env, **shared))
    theirs = RLlibPhases(rllib_rows._default_pipeline(ours.config, shared))
    torch.nn.init.normal_(ours.learner.module[DEFAULT_MODULE_ID].actor_critic.value_head.weight)
    state = ours.learner.module[DEFAULT_MODULE_ID].get_state()
    theirs.learner.module[DEFAULT_MODULE_ID].set_state(state)
    tokens = theirs.sample()
    packed = _loss_terms(ours, copy.deepcopy(theirs.episodes))
    prefixes = _loss_terms(theirs, copy.deepcopy(theirs.episodes))
    assert len(packed) == len(prefixes) == tokens
    assert torch.allclose(packed, prefixes, atol=1e-5)


def _loss_terms(side: RLlibPhases, episodes: list[Any]) -> torch.Tensor:
    """Log-prob, value and value target of each token, in a common order."""
    module = side.learner.module
    batch = side.learner._learner_connector(
        rl_module=module, batch={}, episodes=list(episodes), shared_data={}, metrics=side.learner.metrics
    )[DEFAULT_MODULE_ID]
    out = module[DEFAULT_MODULE_ID].forward_train(batch)
    mask = batch[Columns.LOSS_MASK].bool()
    columns = [
        out[Columns.ACTION_DIST_INPUTS][..., 0][mask],
        out[Columns.EMBEDDINGS][mask],
        batch[Columns.VALUE_TARGETS][mask],
    ]
    terms = torch.stack([column.detach() for column in columns], dim=-1)
    return terms[terms[:, 0].argsort()]


class TestOneTokenTask:
    def test_the_optimum_is_the_closed_form(self) -> None:
        """By the fixed point of the objective: the log-ratio of any two tokens is their difference in score / beta."""
        best, other = one_token_task.OPTIMUM, (1 - one_token_task.OPTIMUM) / (one_token_task.VOCABULARY - 1)
        assert math.log(best / other) == pytest.approx(1 / one_token_task.TOKENS / one_token_task.KL_COEF)
        assert pytest.approx(math.e**3.125 / (math.e**3.125 + 63)) == one_token_task.OPTIMUM
        # No other share has a higher value.

        def value(share: float) -> float:
            rest = (1 - share) / 63
            kl = share * math.log(share * 64) + 63 * rest * math.log(rest * 64)
            return share / one_token_task.TOKENS - one_token_task.KL_COEF * kl

        assert value(one_token_task.OPTIMUM) > max(
            value(one_token_task.OPTIMUM - 0.01), value(one_token_task.OPTIMUM + 0.01)
        )

    def test_the_reference_is_uniform_and_pays_per_token(self) -> None:
        parts = assemble(one_token_task.ONE_TOKEN_TASK, device="cpu")
        assert parts.rules.vocabulary.size == 64
        assert not len(parts.rules.vocabulary.eos_ids)
        model, _ = one_token_task.uniform_model()
        logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits
        assert torch.equal(logits, torch.zeros_like(logits))
        assert one_token_task.rewarded_share(["w1"] * 2, [[1, 7], [7, 1]]) == [1 / 16, 0.0]

    def test_shares_are_counted(self, make_policy: Any) -> None:
        model, tokenizer = one_token_task.uniform_model()
        policy = make_policy(model, tokenizer=tokenizer, max_length=17)
        assert one_token_task.share_of_rewarded(policy, responses=256) == pytest.approx(1 / 64, abs=0.006)
        # A hidden state of 0 has the bias alone left: the rewarded token, always.
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(64).index_fill(0, torch.tensor([7]), 100.0))
        assert (
            one_token_task.share_of_rewarded(make_policy(model, tokenizer=tokenizer, max_length=17), responses=4) == 1.0
        )
