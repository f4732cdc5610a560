"""TRL's stock trainers on an environment: the same prompts, rewards and responses, to the token."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from trl.trainer.dpo_trainer import DataCollatorForPreference

from textrl_agents.benchmark import trl_rows
from textrl_agents.benchmark.cell import Cell, Trained
from textrl_agents.benchmark.entries import trl as entry
from textrl_agents.benchmark.measurement import FULL, Run
from textrl_agents.benchmark.sampling import sample_groups
from textrl_agents.benchmark.start import initial_policy, training_env
from textrl_agents.learning_rate import WarmupSchedule
from textrl_agents.trl import EnvironmentReward, OnlineRun, prompt_dataset, prompt_processor, train_offline
from textrl_agents.trl.offline import dpo_row, orpo_row
from textrl_agents.trl.session import trl_session
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.tasks import Task
from textrl_env.tasks.enumeration import ExactValue

ALGORITHMS = ("trl_rloo", "trl_grpo", "trl_dpo", "trl_orpo")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '</s>' + message['role'] + ': ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '</s>assistant: ' }}{% endif %}"
)


def cell(algorithm: str, budget: int, task: Any = "exact", env: dict[str, Any] | None = None, **settings: Any) -> Cell:
    return Cell(algorithm, task, 0, budget, settings, env or {}, device="cpu")


class Curve(list[tuple[int, dict[str, Any]]]):
    def __call__(self, tokens: int, *, score: float, kl: float | None, length: float) -> None:
        self.append((tokens, {"score": score, "kl": kl, "length": length}))


def normalized(trained: Trained) -> float:
    """0 for the reference of `exact`, 1 for the optimum."""
    env = training_env(cell("x", 0), rows=1)
    truth = ExactValue(env.rules, env.prompts)
    return (truth.value(trained.policy) - truth.reference_value) / (truth.optimal_value - truth.reference_value)


@pytest.fixture
def awkward_task(tiny_task: Task, tiny_tokenizer: Any) -> Task:
    """Prompts that TRL would read otherwise: too long, and spelling control tokens."""
    prompts = ["the soup " * 20, f"the {tiny_tokenizer.eos_token} room", "hello", "good"]
    return Task(
        name="awkward",
        prompts=prompts,
        reward=tiny_task.reward,
        model=tiny_task.model,
        max_prompt_tokens=12,
        max_new_tokens=8,
    )


class TestPrompts:
    def test_the_ids_that_are_generated_from_are_the_environments(
        self, awkward_task: Task, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        env = TextGenVectorEnv(1, awkward_task, kl_mode="deferred")
        policy = initial_policy(env)
        fed: list[tuple[int, ...]] = []
        generate = policy.model.generate

        def recording(input_ids: torch.Tensor, attention_mask: torch.Tensor, **arguments: Any) -> torch.Tensor:
            fed.extend(tuple(ids[mask > 0].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True))
            return generate(input_ids=input_ids, attention_mask=attention_mask, **arguments)

        monkeypatch.setattr(policy.model, "generate", recording)
        settings = {"per_device_train_batch_size": 8, "num_generations": 2, "beta": 0.0}
        with trl_session() as folder:
            OnlineRun("rloo", env, policy, budget=1, folder=folder, settings=settings).train()
        known = {tuple(prompt.ids.tolist()) for prompt in env.prompts}
        assert len(fed) == 8
        assert set(fed) <= known
        assert len(set(fed)) > 1
        plain = env.tokenizer([prompt.text for prompt in env.prompts])["input_ids"]
        assert known.isdisjoint({tuple(ids) for ids in plain[:2]})  # what TRL by itself would have read

    def test_a_small_set_is_repeated_to_fill_batches(self, tiny_task: Task) -> None:
        prompts = TextGenVectorEnv(1, tiny_task, kl_mode="deferred").prompts
        names = prompt_dataset(prompts, at_least=10)["prompt"]
        assert sorted(names) == sorted(["0", "1", "2", "3"] * 3)
        assert prompt_processor(prompts)(text=list(names[:2]))["input_ids"] == [
            prompts[0].ids.tolist(),
            prompts[1].ids.tolist(),
        ]


class TestReward:
    def test_scores_are_the_environments_with_chats_columns_and_token_scores(
        self, tiny_task: Task, tiny_tokenizer: Any, make_model: Any
    ) -> None:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = CHAT_TEMPLATE

        class Sweet:
            """Pays for letters, for the prompt's column and chat, and a little for every even token."""

            __name__ = "sweet"

            def __call__(
                self, prompts: list[Any], completions: list[Any], bonus: list[dict[str, float]], **columns: Any
            ) -> list[float]:
                assert all(isinstance(completion, list) for completion in completions)
                return [
                    len(chat[0]["content"]) + len(completion[0]["content"]) / 8 + more["by"]
                    for chat, completion, more in zip(prompts, completions, bonus, strict=True)
                ]

            def score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
                return [0.25 * (ids[-1] % 2 == 0) + 0.01 * len(ids) for ids in completion_ids]

        rows = [
            {"prompt": [{"role": "user", "content": "hello"}], "bonus": {"by": 0.5}},
            {"prompt": [{"role": "user", "content": "the room </s>"}], "bonus": {"by": 3, "of": None}},
        ]
        task = Task(
            name="chats",
            prompts=rows,
            reward=Sweet(),
            model=lambda: (make_model("llama"), tokenizer),
            max_prompt_tokens=60,
            max_new_tokens=8,
        )
        env = TextGenVectorEnv(4, task, kl_mode="deferred")
        responses = sample_groups(initial_policy(env), env, list(env.prompts), 6).responses
        reward = EnvironmentReward(env.rules, env.prompts)
        names = [str(one.prompt.index) for one in responses]
        ids = [one.episode.response_ids.tolist() for one in responses]
        scores = reward(prompts=names, completions=[""] * 12, completion_ids=ids, trainer_state=None, log_metric=print)
        assert scores == pytest.approx([one.score for one in responses], abs=1e-9)
        assert len(set(scores)) > 6
        assert reward.tokens == sum(map(len, ids))
        assert reward.__name__ == "sweet"


class TestRows:
    """Pairs become what TRL's own collators take; no token is added to a response that was cut."""

    prompt, chosen, rejected = np.array([4, 5, 6]), np.array([7, 8]), np.array([9])

    def test_dpo(self) -> None:
        batch = DataCollatorForPreference(pad_token_id=0)([dpo_row(self.prompt, self.chosen, self.rejected)])
        assert batch["input_ids"].tolist() == [[4, 5, 6, 7, 8], [4, 5, 6, 9, 0]]
        assert batch["completion_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]

    def test_orpo(self) -> None:
        from trl.experimental.utils import DPODataCollatorWithPadding  # which warns where it is imported first

        batch = DPODataCollatorWithPadding(pad_token_id=0)([orpo_row(self.prompt, self.chosen, self.rejected)])
        assert batch["chosen_input_ids"].tolist() == [[4, 5, 6, 7, 8]]
        assert batch["chosen_labels"].tolist() == [[-100, -100, -100, 7, 8]]
        assert batch["rejected_labels"].tolist() == [[-100, -100, -100, 9]]
        assert batch["rejected_attention_mask"].tolist() == [[1, 1, 1, 1]]

    @pytest.mark.parametrize("algorithm", ["dpo", "orpo"])
    def test_training_sees_them(self, algorithm: str) -> None:
        """The chosen response becomes likelier than the rejected one, which re-tokenized text could not show."""
        env = training_env(cell("x", 0), rows=1)
        policy = initial_policy(env)
        prompt, chosen, rejected = np.array([0]), np.array([3, 3, 3, 3, 3]), np.array([1, 1, 1, 1, 1])
        pairs = [(prompt, chosen, rejected)] * 64
        before = _log_odds(policy, prompt, chosen, rejected)
        train_offline(algorithm, env, policy, pairs, settings={"learning_rate": 3e-3, "beta": 0.5})
        assert _log_odds(policy, prompt, chosen, rejected) > before + 1


def _log_odds(policy: Any, prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> float:
    from textrl_env.models import pack

    packed = pack([np.concatenate([prompt, one]) for one in (chosen, rejected)], [1, 1], "cpu")
    with torch.no_grad():
        log_probs = policy.evaluate(packed).log_probs
    return float(log_probs[:5].sum() - log_probs[5:].sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "budget", "settings", "reached"),
    [
        ("trl_rloo", 8000, {"learning_rate": 5e-3}, 0.4),
        ("trl_grpo", 8000, {"learning_rate": 5e-3}, 0.3),
        ("trl_dpo", 5000, {"beta": 0.5, "learning_rate": 1e-3}, 0.15),
        ("trl_orpo", 5000, {"learning_rate": 1e-3}, 0.1),
    ],
)
def test_each_nears_the_optimum(
    algorithm: str,
    budget: int,
    settings: dict[str, Any],
    reached: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Towards the known optimum within the budget; with nothing printed, sent, left on disk or left on the model."""
    monkeypatch.chdir(tmp_path)
    curve = Curve()
    trained = entry.train(cell(algorithm, budget, **settings), curve)
    assert normalized(trained) > reached
    assert budget - 64 * 5 < trained.tokens <= budget + 20  # a round has 64 responses of at most five tokens
    tokens = [at for at, _ in curve]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == trained.tokens
    assert curve[0][1]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert all(math.isfinite(value) for _, point in curve for value in point.values() if value is not None)
    assert 1 <= curve[0][1]["length"] <= 5
    assert "forward" not in vars(trained.policy.model)
    assert not any(module.training for module in trained.policy.modules())
    assert normalized(copy.deepcopy(trained)) == pytest.approx(normalized(trained))
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_online_curves_rise_and_report_the_kl() -> None:
    curve = Curve()
    trained = entry.train(cell("trl_rloo", 6000, learning_rate=5e-3), curve)
    early, late = curve[:3], curve[-3:]
    assert np.mean([p["score"] for _, p in late]) > np.mean([p["score"] for _, p in early]) + 0.5
    # TRL's figure of the last batches against ours of fresh samples.
    result = trained.evaluate(_heldout(), 1024, 0)
    assert np.mean([p["kl"] for _, p in late]) == pytest.approx(result["kl"].mean, rel=0.4)


def _heldout() -> TextGenVectorEnv:
    return TextGenVectorEnv(64, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred", split="heldout")


def test_a_round_of_several_steps_is_finished(tiny_task: Task) -> None:
    """Two steps on each batch, twice over: the budget ends training after a whole round."""
    env = training_env(cell("x", 0, tiny_task), rows=1)
    settings = {
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "num_generations": 2,
    }
    curve = Curve()
    with trl_session() as folder:
        run = OnlineRun("grpo", env, initial_policy(env), budget=160, folder=folder, settings=settings, record=curve)
        run.train()
        assert not run.trainer.args.report_to
    assert run.steps_per_round == 4
    assert run.trainer.state.global_step == 4 * len(curve)
    assert run.tokens == curve[-1][0]
    sizes = np.diff([0, *(tokens for tokens, _ in curve)])
    another_fits = [tokens + size <= 160 for (tokens, _), size in zip(curve, sizes, strict=True)]
    assert another_fits == [True] * (len(curve) - 1) + [False]


def test_a_model_without_a_folder_has_its_own_weights_as_reference(tiny_task: Task) -> None:
    env = training_env(cell("x", 0, tiny_task), rows=1)
    policy = initial_policy(env)
    with trl_session() as folder:
        run = OnlineRun("rloo", env, policy, budget=1, folder=folder)
        theirs, ours = run.trainer.ref_model.state_dict(), env.kl_penalty.reference.lm.model.state_dict()  # type: ignore
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)
        assert run.arguments.beta == tiny_task.kl_coef
        assert run.arguments.max_completion_length == tiny_task.max_new_tokens


def test_the_learning_rate_follows_the_budget() -> None:
    """AdamW's rate at each step is the schedule's at the share of the budget that its responses end."""
    env = training_env(cell("x", 0), rows=1)
    rates: list[tuple[int, float]] = []
    with trl_session() as folder:
        run = OnlineRun(
            "rloo",
            env,
            initial_policy(env),
            budget=2000,
            folder=folder,
            schedule=WarmupSchedule(1e-3, warmup=0.5, final=0.0),
        )
        run.trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_: rates.append((run.tokens, optimizer.param_groups[0]["lr"]))
        )
        run.train()
    assert len(rates) > 5
    assert all(rate > 0 for _, rate in rates)
    for tokens, rate in rates[1:]:
        share = tokens / 2000
        assert rate == pytest.approx(1e-3 * (2 * share if share < 0.5 else 2 - 2 * share), abs=3e-5)


def test_the_session_sends_nothing_and_leaves_all_as_it_was() -> None:
    before = constants.HF_HUB_DISABLE_TELEMETRY
    with trl_session() as folder:
        assert constants.HF_HUB_DISABLE_TELEMETRY is True
        assert Path(folder).is_dir()
    assert before == constants.HF_HUB_DISABLE_TELEMETRY
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("algorithm", "settings", "env", "message"),
    [
        ("trl_grpo", {"betta": 1}, {}, "unknown setting of trl_grpo 'betta'.*mean 'beta'"),
        ("trl_rloo", {"learning_rate": {"top": 1}}, {}, "a learning rate takes peak, warmup and final, got .'top'"),
        ("trl_rloo", {"output_dir": "/tmp"}, {}, "unknown setting of trl_rloo 'output_dir'"),
        ("trl_rloo", {"num_generations": 3}, {}, r"trl_rloo refuses its settings .*must be divisible"),
        ("trl_rloo", {}, {"stop": ["a"]}, "TRL's RLOO cannot end a response at a stop string"),
        ("trl_grpo", {}, {"kl_coef": {"value": 0.1, "target": 3.0}}, "TRL's GRPO takes a fixed kl_coef"),
        ("trl_dpo", {"n": 1}, {}, "n must be a whole number >= 2, got 1"),
        ("trl_orpo", {"betta": 1}, {}, "unknown setting of trl_orpo 'betta'"),
        ("trl_ppo", {}, {}, "unknown algorithm 'trl_ppo'"),
    ],
)
def test_refusals(algorithm: str, settings: dict[str, Any], env: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        entry.train(cell(algorithm, 200, env=env, **settings), Curve())


def test_unknown_algorithms_of_the_package() -> None:
    env = training_env(cell("x", 0), rows=1)
    with pytest.raises(UnknownName, match="unknown algorithm 'ppo'"):
        OnlineRun("ppo", env, initial_policy(env), budget=1, folder="unused")
    with pytest.raises(UnknownName, match="unknown algorithm 'kto'"):
        train_offline("kto", env, initial_policy(env), [])
    with pytest.raises(ConfigError, match="dpo needs at least one pair"):
        train_offline("dpo", env, initial_policy(env), [])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_embedded_model_on_the_default_task(algorithm: str) -> None:
    trained = entry.train(cell(algorithm, 1000, "sentiment"), curve := Curve())
    env = training_env(cell("x", 0, "sentiment"), rows=1)
    reference = env.kl_penalty.reference
    assert reference is not None
    moved = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(trained.policy.model.parameters(), reference.lm.model.parameters(), strict=True)
    ]
    assert all(moved)
    assert -1 < curve[0][1]["score"] < 1
    assert 10 < curve[0][1]["length"] < 40


@pytest.mark.slow
@pytest.mark.parametrize("row", ["rloo", "grpo"])
def test_rows_of_the_speed_benchmark(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_rows, "ROUNDS", 1)

    def no_subject() -> Any:
        raise AssertionError("TRL's rows load what they need by name")

    measured = getattr(trl_rows, row)(Run(torch.device("cpu"), no_subject, FULL._replace(rows=16), 1))
    assert measured.value > 0.3
    assert str(measured.target) == ">= 1"
    assert "ours" in measured.detail
    assert "TRL" in measured.detail
