"""The environment whose state is a training run: rewards by hand, snapshots bit for bit, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import textrl_env
from textrl_env.errors import (
    ConfigError,
    InvalidAction,
    ModelError,
    ResetNeeded,
    TextRLError,
    TrainingDiverged,
    UnknownName,
)
from textrl_env.finetune import FineTuneEnv, Measurement, Settings
from textrl_env.finetune.examples import IGNORED, Example, collate, load_examples, places_in_order
from textrl_env.finetune.snapshot import Snapshot

ROWS = [{"prompt": f"the {noun} was", "completion": f" {word}"} for noun in ("soup", "room") for word in "abcdefgh"]
OPTIMIZERS = ["adamw", "sgd", "adafactor"]


@pytest.fixture
def make_env(make_model: Any, tiny_tokenizer: Any) -> Callable[..., FineTuneEnv]:
    """`make_env(**arguments)`: the environment around a tiny Llama, two steps of two rows a segment."""

    def make(**arguments: Any) -> FineTuneEnv:
        given = {"data": ROWS, "model": make_model(), "tokenizer": tiny_tokenizer, "steps": 2, "batch_size": 2}
        return FineTuneEnv(**{**given, "learning_rate": 1e-3, "segments": 3, **arguments})

    return make


def weights_of(env: FineTuneEnv) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in env.run.model.parameters()]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def played(env: FineTuneEnv, actions: Any) -> list[Any]:
    """What each step gave, as values that compare equal only bit for bit."""
    return [(obs.tobytes(), reward, ended, info) for obs, reward, ended, _, info in map(env.step, actions)]


# --- as anybody's environment -----------------------------------------------------------------------------


def test_both_checkers_accept_it(make_model: Any, tiny_tokenizer: Any):
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    arguments = {"data": ROWS, "model": make_model(), "tokenizer": tiny_tokenizer, "steps": 1, "batch_size": 2}
    env = gymnasium.make("TextRLHF-FineTune-v0", render_mode="ansi", order_seed=None, **arguments)
    assert isinstance(env.unwrapped, FineTuneEnv)
    check_env(env.unwrapped)
    check_env_sb3(env.unwrapped)
    assert env.spec.id == textrl_env.FINETUNE_ID


def test_an_observation_says_what_the_run_is_like(make_env: Any):
    env = make_env(optimizers=OPTIMIZERS, batch_factors=(1, 2), compute_price=0.5)
    first, info = env.reset()
    seen = env.columns.read(first)
    assert seen["log10_learning_rate"] == pytest.approx(-3)
    assert [seen[f"optimizer_{name}"] for name in OPTIMIZERS] == [1, 0, 0]
    assert seen["budget_used"] == seen["train_loss_change"] == seen["validation_loss_change"] == 0
    action = next(
        place
        for place, change in enumerate(env.changes)
        if (change.factors["learning_rate"], change.optimizer, change.batch_factor) == (4, "sgd", 2)
    )
    observation, reward, _, _, after = env.step(action)
    seen = env.columns.read(observation)
    assert seen["log10_learning_rate"] == pytest.approx(math.log10(4e-3))
    assert [seen[f"optimizer_{name}"] for name in OPTIMIZERS] == [0, 1, 0]
    assert seen["log2_batch"] == 1
    assert seen["budget_used"] == pytest.approx(1 / 3)
    assert seen["validation_loss"] == pytest.approx(after["validation_loss"])
    assert seen["validation_loss_change"] == pytest.approx(after["validation_loss"] - info["validation_loss"], abs=1e-6)
    assert 10 ** seen["log10_gradient_norm"] == pytest.approx(after["gradient_norm"], rel=1e-5)
    # Twice the rows cost twice the price of a segment.
    assert reward == pytest.approx(math.log(info["validation_loss"] / after["validation_loss"]) - 1.0)
    assert after["compute"] == 2
    assert "segment 1/3" in make_render(env)


def make_render(env: FineTuneEnv) -> str:
    env.render_mode = "ansi"
    return env.render()


def test_options_multiply(make_env: Any):
    assert make_env().action_space.n == 5
    env = make_env(multipliers=(0.5, 2), optimizers=OPTIMIZERS, batch_factors=(0.5, 1, 2), stop=True)
    assert env.action_space.n == 2 * 3 * 3 + 1
    assert len({str(change) for change in env.changes}) == 19
    env.reset()
    _, reward, terminated, truncated, info = env.step(18)
    assert (reward, terminated, truncated, info["finish_reason"], info["segment"]) == (0, True, False, "stop", 0)


# --- what a segment does ----------------------------------------------------------------------------------


def by_hand(examples: Any, model: Any, segments: list[tuple[float, str, int]]) -> list[tuple[float, float, float]]:
    """(train loss, validation loss, gradient norm) before the first segment and after each of two steps.

    segments: learning rate, optimizer, rows of a batch. With torch's own optimizers on a model of its own, and losses
    as transformers computes them.
    """
    makers = {
        "adamw": lambda rate: torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.01),
        "sgd": lambda rate: torch.optim.SGD(model.parameters(), 100 * rate, momentum=0.9),
    }

    def loss(rows: list[Example]) -> torch.Tensor:
        batch = collate(rows, 1, torch.device("cpu"))
        return model(input_ids=batch.input_ids, labels=batch.labels).loss

    found, used, drawn, optimizer = [(math.nan, loss(examples.validation).item(), math.nan)], "", 0, None
    for rate, name, rows in segments:
        if name != used:
            optimizer, used = makers[name](rate), name
        assert optimizer is not None
        optimizer.param_groups[0]["lr"] = rate * (100 if name == "sgd" else 1)
        steps = []
        for _ in range(2):
            places = places_in_order(0, drawn, rows, len(examples.train))
            drawn += rows
            optimizer.zero_grad()
            lost = loss([examples.train[place] for place in places])
            lost.backward()
            steps.append((lost.item(), torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()))
            optimizer.step()
        losses, norms = zip(*steps, strict=True)
        found.append((sum(losses) / 2, loss(examples.validation).item(), sum(norms) / 2))
    return found


def test_rewards_are_those_of_a_loop_by_hand(make_env: Any, make_model: Any):
    env = make_env()
    _, before = env.reset()
    played = [env.step(action) for action in (4, 3, 1)]
    wanted = by_hand(env.run.examples, make_model(), [(4e-3, "adamw", 2), (8e-3, "adamw", 2), (4e-3, "adamw", 2)])
    losses = [loss for _, loss, _ in wanted]
    assert before["validation_loss"] == pytest.approx(losses[0], rel=1e-5)
    assert [reward for _, reward, *_ in played] == pytest.approx(
        [math.log(a / b) for a, b in itertools.pairwise(losses)], abs=1e-5
    )
    assert losses[-1] < losses[0]
    for (*_, info), (train, _, norm) in zip(played, wanted[1:], strict=True):
        assert (info["train_loss"], info["gradient_norm"]) == pytest.approx((train, norm), rel=1e-4)


def test_a_change_of_optimizer_and_batch_size_is_that_of_a_loop_by_hand(make_env: Any, make_model: Any):
    """Moments begin anew with another optimizer and go on with the same one; no row is drawn twice or left out."""
    env = make_env(multipliers=(1.0,), optimizers=["adamw", "sgd"], batch_factors=(1, 2), segments=4)
    env.reset()
    segments = [("adamw", 2), ("sgd", 1), ("sgd", 2), ("adamw", 1)]
    infos = []
    for name, factor in segments:
        sought = (name, factor)
        action = next(n for n, each in enumerate(env.changes) if (each.optimizer, each.batch_factor) == sought)
        infos.append(env.step(action)[-1])
    wanted = by_hand(env.run.examples, make_model(), [(1e-3, name, 2 * factor) for name, factor in segments])
    for info, (train, validation, norm) in zip(infos, wanted[1:], strict=True):
        found = (info["train_loss"], info["validation_loss"], info["gradient_norm"])
        assert found == pytest.approx((train, validation, norm), rel=1e-4)


def test_data_come_in_epochs_of_their_own_order():
    drawn = places_in_order(3, 0, 25, 10)
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert drawn == [*places_in_order(3, 0, 7, 10), *places_in_order(3, 7, 18, 10)]  # a place is all there is to know
    assert drawn != places_in_order(4, 0, 25, 10)


def test_only_answers_and_their_ends_are_learned(tiny_tokenizer: Any):
    examples = load_examples(ROWS, tiny_tokenizer)
    assert len(examples.train) == 14
    assert len(examples.validation) == 2
    batch = collate(examples.train[:3], 1, torch.device("cpu"))
    for example, labels in zip(examples.train, batch.labels, strict=False):
        learned = labels[labels != IGNORED].tolist()
        assert learned == example.ids[example.answer :]
        assert tiny_tokenizer.decode(learned[:-1]).strip() in "abcdefgh"
        assert learned[-1] == tiny_tokenizer.eos_token_id


def test_a_tasks_validation_rows_are_about_other_items():
    from textrl_env.models import load_model
    from textrl_env.tasks import get_task

    examples = load_examples("translate", load_model("embedded").tokenizer, train_rows=300, validation_rows=64)
    assert (len(examples.train), len(examples.validation)) == (300, 64)
    task = get_task("translate")
    train, validation = ({task.item(row) for row in rows()} for rows in (task.prompts, task.validation_prompts))
    assert not train & validation
    chats = load_examples("dialogue", load_model("embedded").tokenizer, train_rows=4, validation_rows=4)
    assert all(example.answer < len(example.ids) for example in chats.train)


def test_the_order_is_the_seeds(make_env: Any):
    env = make_env(order_seed=None)

    def run(seed: int | None) -> list[Any]:
        env.reset(seed=seed)
        return played(env, (2, 2))

    first, other, again = run(1), run(2), run(1)
    assert first == again != other
    assert run(None) != run(None)


def test_the_callers_model_and_generators_stay_as_they_were(make_env: Any, make_model: Any):
    model = make_model()
    before = [weight.detach().clone() for weight in model.parameters()]
    env = make_env(model=model)
    state = torch.get_rng_state()
    env.reset()
    played(env, (4, 4, 4))
    assert equal(before, [weight.detach() for weight in model.parameters()])
    assert not equal(before, weights_of(env))
    assert torch.equal(state, torch.get_rng_state())
    env.reset()
    assert equal(before, weights_of(env))


def test_a_run_that_diverges_ends_with_a_finite_loss(make_env: Any):
    env = make_env(multipliers=(1.0, 1e9))
    first, info = env.reset()
    observation, reward, terminated, truncated, after = env.step(1)
    assert (terminated, truncated, after["finish_reason"], after["diverged"]) == (True, False, "diverged", True)
    ceiling = 2 * max(math.log(320), info["validation_loss"])
    assert reward == pytest.approx(math.log(info["validation_loss"] / ceiling))
    assert np.isfinite(observation).all()
    assert env.observation_space.contains(observation)
    with pytest.raises(ResetNeeded, match="has ended \\(diverged\\)"):
        env.step(0)
    again, _ = env.reset()
    assert again.tobytes() == first.tobytes()
    assert all(torch.isfinite(weight).all() for weight in weights_of(env))


def test_an_update_of_numbers_that_are_not_finite_is_not_made(make_env: Any):
    env = make_env()
    env.reset()
    with torch.no_grad():
        next(env.run.model.parameters()).fill_(math.nan)
    before = [weight.nan_to_num(7.0) for weight in weights_of(env)]
    observation, reward, terminated, _, info = env.step(2)
    assert terminated
    assert info["diverged"]
    assert np.isfinite([reward, *observation, info["train_loss"], info["gradient_norm"]]).all()
    assert equal(before, [weight.nan_to_num(7.0) for weight in weights_of(env)])


# --- snapshots --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_snapshot_restores_bit_for_bit(make_env: Any, optimizer: str, tmp_path: Path):
    env = make_env(optimizer=optimizer, segments=4)
    env.reset()
    env.step(4)
    here, weights = env.snapshot(), weights_of(env)
    went_on = played(env, (3, 2, 1))
    ended = weights_of(env)
    assert not equal(weights, ended)
    for _ in range(2):  # restoring does not let the run write into the snapshot
        env.restore(here)
        assert equal(weights, weights_of(env))
        assert played(env, (3, 2, 1)) == went_on
        assert equal(ended, weights_of(env))

    path = tmp_path / "run.safetensors"
    here.run.save(path)
    fresh = make_env(optimizer=optimizer, segments=4)
    fresh.reset()
    fresh.restore(here._replace(run=Snapshot.load(path)))
    assert played(fresh, (3, 2, 1)) == went_on
    assert equal(ended, weights_of(fresh))


def test_episodes_may_begin_from_a_snapshot(make_env: Any, tmp_path: Path):
    env = make_env()
    env.reset()
    env.step(4)
    loss = env.step(4)[-1]["validation_loss"]
    env.run.snapshot().save(tmp_path / "start")
    went_on = env.step(2)[-1]["validation_loss"]
    later = make_env(start=tmp_path / "start", order_seed=0)
    observation, info = later.reset()
    assert info["validation_loss"] == loss
    assert later.columns.read(observation)["log10_learning_rate"] == pytest.approx(math.log10(1.6e-2))
    assert later.step(2)[-1]["validation_loss"] == went_on


def test_a_snapshot_of_another_run_changes_nothing(make_env: Any, make_model: Any):
    env, others = make_env(), make_env(model=make_model(seed=1))
    env.reset()
    env.step(4)
    others.reset()
    weights, wrong = weights_of(env), others.snapshot()
    with pytest.raises(ModelError, match="snapshot of another model"):
        env.restore(wrong)
    other_data = make_env(data=ROWS[::-1])
    other_data.reset()
    with pytest.raises(ModelError, match="snapshot of another data"):
        env.restore(other_data.snapshot())
    with pytest.raises(ModelError, match="snapshot of another model"):
        make_env(start=wrong.run)
    assert equal(weights, weights_of(env))
    env.step(2)  # the episode goes on


def test_a_snapshot_that_lacks_weights_changes_nothing(make_env: Any):
    import dataclasses

    env = make_env()
    env.reset()
    here = env.snapshot()
    env.step(4)
    weights = weights_of(env)
    cut = dataclasses.replace(here.run, weights=dict(list(here.run.weights.items())[1:]))
    with pytest.raises(ModelError, match="does not hold all of the model's weights"):
        env.restore(here._replace(run=cut))
    assert equal(weights, weights_of(env))


def test_a_snapshot_of_another_environment_changes_nothing(make_env: Any):
    """A longer one would leave an episode without an end, and other columns an agent that reads the wrong ones."""
    longer, others = make_env(segments=4), make_env(optimizers=OPTIMIZERS)
    env = make_env()
    for each in (env, longer, others):
        each.reset()
        each.step(4)
    weights = weights_of(env)
    with pytest.raises(ModelError, match="an environment with other segments: 4, and here 3"):
        env.restore(longer.snapshot())
    with pytest.raises(ModelError, match="an environment with other columns"):
        env.restore(others.snapshot())
    with pytest.raises(ModelError, match="make the environment with start="):
        env.restore(env.run.snapshot())
    with pytest.raises(ModelError, match="expected a Snapshot of a supervised run"):
        env.restore(env.snapshot()._replace(run=7))
    assert equal(weights, weights_of(env))
    assert [env.step(2)[2] for _ in range(2)] == [False, True]


def test_a_snapshot_with_one_wrong_bit_is_refused(make_env: Any, tmp_path: Path):
    """safetensors notices a file that was cut, and no number that was changed."""
    env = make_env()
    env.reset()
    env.step(4)
    env.run.snapshot().save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    settings = content.index(b"learning_rate")
    for place, bit in ((len(content) - 2, 1), (settings + len(b"learning_rate") + 6, 1)):
        (tmp_path / "flipped").write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        with pytest.raises(ModelError, match=r"flipped was changed or damaged after it was written"):
            make_env(start=tmp_path / "flipped")
    assert Snapshot.load(tmp_path / "whole").settings.dials == {"learning_rate": 4e-3}


def test_snapshot_files_that_cannot_be_used(make_env: Any, tmp_path: Path):
    env = make_env()
    env.reset()
    good = tmp_path / "good"
    env.run.snapshot().save(good)
    content = good.read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "text").write_text("no snapshot")
    torch_file = tmp_path / "other"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, torch_file)
    for name, match in (("cut", "cannot be read"), ("text", "cannot be read"), ("gone", "cannot be read")):
        with pytest.raises(ModelError, match=match):
            make_env(start=tmp_path / name)
    with pytest.raises(ModelError, match="is no snapshot of a fine-tuning run"):
        make_env(start=torch_file)
    with pytest.raises(TextRLError, match="cannot be written"):
        env.run.snapshot().save(tmp_path / "no folder" / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TextRLError, match="cannot be written"):
        env.run.snapshot().save(tmp_path / "folder")
    assert not list(tmp_path.glob(".*"))  # nothing half-written


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [-1, 5, 1.0, "2", None, [1], True])
def test_actions_that_are_none(make_env: Any, action: Any):
    env = make_env()
    env.reset()
    before = weights_of(env)
    with pytest.raises(InvalidAction, match=r"whole number in \[0, 5\)"):
        env.step(action)
    assert equal(before, weights_of(env))
    env.step(np.int64(2))


def test_the_order_of_calls(make_env: Any):
    env = make_env(segments=1)
    for call in (lambda: env.step(0), env.snapshot):
        with pytest.raises(ResetNeeded, match="call reset"):
            call()
    env.reset()
    env.step(0)
    with pytest.raises(ResetNeeded, match=r"has ended \(budget\)"):
        env.step(0)
    with pytest.raises(ConfigError, match="no reset options"):
        env.reset(options={"order": 1})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"data": []}, "data holds no row"),
        ({"data": ROWS[:1]}, "one row cannot both be trained on and judge"),
        ({"validation_data": []}, "validation_data holds no row"),
        ({"data": 7}, "data must be a task's name or a list"),
        ({"data": [{"prompt": "a"}] * 3}, "row 0 must be"),
        ({"data": [{"prompt": "a", "completion": ""}] * 3}, "row 0 has no answer to learn"),
        ({"data": [{"prompt": "a", "completion": "b" * 999}] * 3}, r"row 0 has \d+ tokens, and the model reads 128"),
        ({"data": [*ROWS[:9], {"prompt": "a"}]}, "row 9 must be"),  # the held-out row 7 counts too
        ({"data": [*ROWS[:7], {"prompt": "a"}]}, "row 7 must be"),
        ({"validation_data": [ROWS[0], 3]}, "validation row 1 must be"),
        ({"data": [{"prompt": 3, "completion": "b"}] * 3}, "the prompt of row 0 must be a text"),
        ({"data": [{"prompt": "a", "completion": 3}] * 3}, "the completion of row 0 must be a text"),
        ({"data": [{"prompt": "a", "completion": "\ud800"}] * 3}, "the completion of row 0 holds .* surrogate"),
        ({"data": [{"prompt": [], "completion": "b"}] * 3}, "the prompt of row 0: a chat needs at least one message"),
        ({"data": "translat"}, "Did you mean 'translate'"),
        ({"data": "sentiment"}, "task with answers of its own"),
        ({"data": "translate", "validation_data": ROWS}, "a task has its own validation prompts"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"learning_rate": 0}, "learning_rate must be a finite number > 0"),
        ({"learning_rate": math.nan}, "learning_rate must be"),
        ({"optimizer": "adam"}, "Did you mean 'adamw'"),
        ({"optimizers": ["adamw", "lion"]}, "unknown optimizer 'lion'"),
        ({"optimizers": ["sgd", "adafactor"]}, "the one that is used at the start, 'adamw'"),
        ({"optimizers": "adamw"}, "optimizers must be a list"),
        ({"multipliers": []}, "multipliers of learning_rate must be a list"),
        ({"multipliers": [0.0]}, "multipliers of learning_rate must be a finite number > 0"),
        ({"multipliers": {"momentum": [1]}}, "unknown dial 'momentum'"),
        ({"batch_factors": [-1]}, "batch_factors must be"),
        ({"segments": 0}, "segments must be"),
        ({"compute_price": -1}, "compute_price must be"),
        ({"order_seed": -1}, "seed must be"),
        ({"render_mode": "human"}, "render_mode must be 'ansi'"),
        ({"stepz": 3}, "Did you mean 'steps'"),
        ({"model": 3}, "model must be a name, a folder or a causal LM"),
    ],
)
def test_arguments_that_cannot_be(make_env: Any, arguments: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        make_env(**arguments)


def test_a_model_that_nothing_may_be_trained_of(make_env: Any, make_model: Any):
    with pytest.raises(ConfigError, match="no weight that may be trained"):
        make_env(model=make_model().requires_grad_(False))


class Scripted:
    """A run of another kind: no optimizer, no batches, two dials."""

    settings = Settings({"learning_rate": 1.0, "clip_range": 0.2})

    def __init__(self, scores: list[float]):
        self.scores, self.trained = scores, list[Settings]()

    def begin(self, order_seed: int) -> Measurement:
        return Measurement(0.0, 1.0, 1.0, 1.0)

    def train(self, settings: Settings) -> Measurement:
        self.trained.append(settings)
        return Measurement(self.scores[len(self.trained) - 1], math.inf, 1.0, math.nan)


def test_a_run_of_ones_own():
    run = Scripted([0.5, 0.25])
    env = FineTuneEnv(run=run, segments=2, multipliers={"clip_range": (0.5, 1.0), "learning_rate": (1.0, 4.0)})
    env.reset()
    observation, reward, ended, _, _ = env.step(1)  # the last dial changes fastest
    assert (reward, ended) == (0.5, False)
    assert np.isfinite(observation).all()
    assert env.step(0)[1] == -0.25
    assert [settings.dials for settings in run.trained] == [
        {"learning_rate": 4.0, "clip_range": 0.1},
        {"learning_rate": 4.0, "clip_range": 0.05},
    ]
    env.reset()
    with pytest.raises(ConfigError, match="Scripted has no snapshots"):
        env.snapshot()
    for arguments, match in (
        ({"batch_factors": (1, 2)}, "no batch size to change"),
        ({"optimizers": ["adamw"]}, "unknown optimizer"),
        ({"steps": 3}, "these belong to a supervised run: steps"),
    ):
        with pytest.raises(ConfigError, match=match):
            FineTuneEnv(run=run, **arguments)
    with pytest.raises(ConfigError, match=r"run must have settings, begin and train \(TrainingRun\), got 7"):
        FineTuneEnv(run=7)  # type: ignore[arg-type]


def test_a_loss_below_0_is_seen():
    """PPO's is, where the advantages of what it does are good."""

    class Negative(Scripted):
        def train(self, settings: Settings) -> Measurement:
            return super().train(settings)._replace(train_loss=-0.25)

    env = FineTuneEnv(run=Negative([0.5]))
    env.reset()
    seen = env.columns.read(env.step(2)[0])
    assert (seen["train_loss"], seen["train_loss_change"]) == (-0.25, -1.25)


def test_a_score_that_no_agent_could_learn_from_is_an_error():
    env = FineTuneEnv(run=Scripted([math.nan]))
    env.reset()
    with pytest.raises(TrainingDiverged, match="score is nan"):
        env.step(0)
    with pytest.raises(ResetNeeded):
        env.step(0)


def test_an_unknown_name_is_an_unknown_name(make_env: Any):
    with pytest.raises(UnknownName):
        make_env(data="no such task")
