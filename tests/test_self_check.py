"""`textrl check`: every check passes on what is right, and fails when its checked is broken."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from letter_dialogue import LetterDialogue, letter_dialogue
from torch import nn

from textrl_agents.check import self_check
from textrl_agents.check.checked_task import CheckedTask
from textrl_agents.check.self_check import CHECKS, CheckResult, run_check, run_checks
from textrl_env import vector_env
from textrl_env.accounts import KLAccounts, Stretch
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.kl import KLPenalty
from textrl_env.models import CausalLMActorCritic, Reference, SlotDecoder
from textrl_env.models.causal_lm import CausalLM
from textrl_env.tasks import Task

RATIO, KL, PADDING, CACHE, STEPWISE, IDENTITY, ROUND_TRIP, VECTOR, REWARD, OPTIMUM = CHECKS
OF_THE_PARTS = [name for name in CHECKS if name != OPTIMUM]


@pytest.fixture
def checked(tiny_task: Task) -> CheckedTask:
    return CheckedTask(tiny_task, device="cpu")


def with_reward(task: Task, reward: Any) -> CheckedTask:
    return CheckedTask(task, reward=reward, device="cpu")


@pytest.mark.parametrize("name", OF_THE_PARTS)
def test_each_check_passes_on_a_sound_model(checked: CheckedTask, name: str):
    """CHECKS 4-7, 13, 16 and 26 as a user runs them."""
    result = run_check(name, checked)
    assert result.ok, result
    assert 0 <= result.value <= result.limit <= 1e-5
    assert result.detail


@pytest.mark.parametrize("name", OF_THE_PARTS)
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_other_families(tiny_task: Task, make_model: Any, tiny_tokenizer: Any, family: str, name: str):
    checked = CheckedTask(tiny_task, model=make_model(family), tokenizer=tiny_tokenizer, device="cpu")
    assert run_check(name, checked).ok


class TimesOut(LetterDialogue):
    """Ends after three turns, and is cut off after the second where it has nothing to say."""

    def step(self, action: str) -> Any:
        reply, score, is_over, *_ = super().step(action)
        return reply, score, is_over, self.turn == 2 and not reply, {}


@pytest.mark.parametrize("name", [IDENTITY, VECTOR])
def test_a_turn_environment_that_times_out(name: str):
    """What it cuts off is paid as what ends, and begins anew in both environments."""
    result = run_check(name, CheckedTask(letter_dialogue(TimesOut), device="cpu"))
    assert result.ok, result


def test_half_precision_has_a_limit_of_its_own(tiny_task: Task):
    checked = CheckedTask(tiny_task, device="cpu", dtype="bfloat16")
    results = [run_check(name, checked) for name in (RATIO, KL, PADDING, CACHE, STEPWISE)]
    assert all(result.ok and result.limit == 1e-1 for result in results)
    assert max(result.value for result in results) > 1e-5  # the fp32 limit would not do


@pytest.mark.parametrize("name", [CACHE, RATIO, STEPWISE])
def test_a_model_that_cannot_be_cached_is_told_not_failed(
    checked: CheckedTask, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(SlotDecoder, "_probe", lambda self, whole, run: "it keeps no keys")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run_check(name, checked)
    assert result.ok
    if name == CACHE:
        assert "it keeps no keys" in result.detail


def test_the_ratio_shows_dropout(
    tiny_task: Task, make_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    """CHECKS 26: dropout that stays on in updates."""
    model = make_model("gpt2", resid_pdrop=0.2, attn_pdrop=0.2)
    checked = CheckedTask(tiny_task, model=model, tokenizer=tiny_tokenizer, device="cpu")
    assert run_check(RATIO, checked).ok
    monkeypatch.setattr(CausalLMActorCritic, "train", nn.Module.train)
    result = run_check(RATIO, checked)
    assert not result.ok
    assert result.value > 1e-2


def test_the_ratio_shows_a_temperature_that_the_update_forgets(tiny_task: Task, monkeypatch: pytest.MonkeyPatch):
    checked = CheckedTask(tiny_task, sampling={"temperature": 0.5}, device="cpu")
    assert run_check(RATIO, checked).ok
    original = CausalLMActorCritic.evaluate

    def forgetful(self: CausalLMActorCritic, *arguments: Any) -> Any:
        self.sampling = type(self.sampling)()
        return original(self, *arguments)

    monkeypatch.setattr(CausalLMActorCritic, "evaluate", forgetful)
    assert not run_check(RATIO, checked).ok


def test_kl_shows_another_reference(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 6."""
    original = Reference.episode_log_probs
    monkeypatch.setattr(Reference, "episode_log_probs", lambda self, packed: original(self, packed) - 1e-4)
    result = run_check(KL, checked)
    assert not result.ok
    assert result.value == pytest.approx(1e-4, rel=0.1)


def test_padding_shows_a_mask_that_is_ignored(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 5."""
    original = CausalLM.hidden

    def unmasked(self: CausalLM, ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
        mask = arguments.pop("attention_mask", None)
        return original(self, ids, attention_mask=None if mask is None else torch.ones_like(mask), **arguments)

    monkeypatch.setattr(CausalLM, "hidden", unmasked)
    result = run_check(PADDING, checked)
    assert not result.ok
    left, right = (float(part.split()[1]) for part in result.detail.split(", ")[:2])
    assert left > 1e-3
    assert right <= 1e-5


def test_padding_shows_a_model_that_looks_ahead(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """Right padding needs no mask only where attention is causal."""
    original = CausalLM.hidden

    def looks_ahead(self: CausalLM, ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
        states = original(self, ids, **arguments)
        return states + 1e-2 * states.mean(dim=1, keepdim=True) if "cache" not in arguments else states

    monkeypatch.setattr(CausalLM, "hidden", looks_ahead)
    assert not run_check(PADDING, checked).ok


def test_the_cache_shows_altered_keys(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 5: keys that go wrong after the probe at the start."""
    original = SlotDecoder.last_hidden

    def altered(self: SlotDecoder, observations: torch.Tensor) -> torch.Tensor:
        states = original(self, observations)
        if self.cached and self._slots is not None and self._version is not None:
            for layer in self._slots.layers:
                layer.keys = layer.keys * 1.01
        return states

    decoder = SlotDecoder(checked.lm, checked.rules.max_length)  # the probe itself is left alone
    monkeypatch.setattr(SlotDecoder, "_cache_fits", lambda self, whole: decoder.cached)
    monkeypatch.setattr(SlotDecoder, "last_hidden", altered)
    result = run_check(CACHE, checked)
    assert not result.ok
    assert result.value > 1e-4


@pytest.mark.parametrize("name", [PADDING, CACHE])
def test_nan_is_infinitely_wrong(checked: CheckedTask, name: str, monkeypatch: pytest.MonkeyPatch):
    """A comparison with NaN is false, and max() skips it: a broken model must not pass for that."""
    original = CausalLM.project
    monkeypatch.setattr(CausalLM, "project", lambda self, hidden: original(self, hidden) * math.nan)
    result = run_check(name, checked)
    assert not result.ok
    assert result.value == math.inf or "not finite" in result.detail  # the decoder itself refuses it


def test_stepwise_shows_another_reference(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 4."""
    original = Reference.step_log_probs
    monkeypatch.setattr(Reference, "step_log_probs", lambda self, ids, tokens: original(self, ids, tokens) + 1e-4)
    assert not run_check(STEPWISE, checked).ok


def test_stepwise_shows_a_wrong_sign(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 23: the policy is not the reference there, so a sign matters."""
    original = KLPenalty.__call__

    def flipped(self: KLPenalty, *arguments: Any) -> Any:
        terms = original(self, *arguments)
        return terms._replace(kl=-terms.kl)

    monkeypatch.setattr(KLPenalty, "__call__", flipped)
    assert not run_check(STEPWISE, checked).ok


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.01])
def test_the_identity_shows_a_wrong_charge(checked: CheckedTask, scale: float, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 7: a KL that is reported and not charged, charged with the wrong sign, or charged too much."""
    original = KLAccounts.charge

    def wrong(self: KLAccounts, stretches: Sequence[Stretch], *arguments: Any) -> None:
        original(self, stretches, *arguments)
        for _, trajectory, _ in stretches:
            trajectory.rewards = trajectory.rewards + (1 - scale) * trajectory.kl_coef * trajectory.kl

    monkeypatch.setattr(KLAccounts, "charge", wrong)
    result = run_check(IDENTITY, checked)
    assert not result.ok
    assert result.value > 1e-4


def test_the_identity_uses_the_users_reward(tiny_task: Task):
    """CHECKS 19."""
    result = run_check(IDENTITY, with_reward(tiny_task, lambda prompts, completions: [math.nan] * len(prompts)))
    assert not result.ok
    assert "InvalidScore" in result.detail


def test_a_broken_reward_fails_its_own_checks_alone(tiny_task: Task):
    """CHECKS 18: the rows that are about the model stay meaningful."""

    def broken(prompts: list[str], completions: list[str]) -> list[float]:
        raise ZeroDivisionError("no words")

    results = {name: run_check(name, with_reward(tiny_task, broken)) for name in OF_THE_PARTS}
    assert [name for name, result in results.items() if not result.ok] == [IDENTITY, REWARD]
    assert "no words" in results[REWARD].detail
    assert math.isnan(results[REWARD].value)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda prompts, completions: [math.nan] * len(prompts), "finite"),
        (lambda prompts, completions: [1.0], "samples"),
        (lambda prompts, completions: [float(len(prompts))] * len(prompts), "end together"),
        (lambda prompts, completions: [float(len(text)) for text in completions if not completions.clear()], ""),
    ],
)
def test_rewards_that_do_not_behave(tiny_task: Task, reward: Any, message: str):
    """CHECKS 19 and 22."""
    result = run_check(REWARD, with_reward(tiny_task, reward))
    assert not result.ok
    assert message in result.detail


def test_a_noisy_reward_is_told_not_failed(tiny_task: Task):
    noise = np.random.default_rng(0)
    result = run_check(REWARD, with_reward(tiny_task, lambda prompts, completions: list(noise.random(len(prompts)))))
    assert result.ok
    assert "not deterministic" in result.detail


def test_columns_reach_the_reward(tiny_task: Task):
    """A reward that needs a column of the prompts is checked with it."""
    rows = [{"prompt": "the room", "weight": 2.0}, {"prompt": "hello", "weight": 0.5}]

    def weighted(prompts: list[str], completions: list[str], weight: list[float]) -> list[float]:
        return [factor * len(text) for factor, text in zip(weight, completions, strict=True)]

    checked = CheckedTask(dataclasses.replace(tiny_task, prompts=rows, reward=weighted), device="cpu")
    assert run_check(REWARD, checked).ok
    assert run_check(IDENTITY, checked).ok


def test_the_round_trip_shows_injected_control_tokens(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 16."""

    def plain(tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer(text, split_special_tokens=False)["input_ids"])

    monkeypatch.setattr(self_check, "encode_prompt_text", plain)
    result = run_check(ROUND_TRIP, checked)
    assert not result.ok
    assert "<|im_start|>" in result.detail


def test_the_round_trip_shows_decoding_token_by_token(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 13."""

    def pieces(tokenizer: Any, ids: list[int], **flags: Any) -> str:
        return "".join(tokenizer.decode([i], skip_special_tokens=True) for i in ids)

    monkeypatch.setattr(self_check, "decode_response", pieces)
    assert not run_check(ROUND_TRIP, checked).ok


def test_a_small_alphabet_is_told_not_failed():
    result = run_check(ROUND_TRIP, CheckedTask("exact", device="cpu"))
    assert result.ok
    assert "5 have characters that this tokenizer cannot write" in result.detail


def test_vector_shows_other_prompts(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 3."""
    monkeypatch.setattr(vector_env, "choose_prompt", lambda prompts, generator, options: prompts[0])
    result = run_check(VECTOR, checked)
    assert not result.ok
    assert "observations" in result.detail


def test_vector_shows_other_rewards(checked: CheckedTask, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 3."""
    original = vector_env.TextGenVectorEnv.step

    def generous(self: Any, actions: Any) -> Any:
        observations, rewards, *rest = original(self, actions)
        return (observations, rewards + 1e-4, *rest)

    monkeypatch.setattr(vector_env.TextGenVectorEnv, "step", generous)
    assert not run_check(VECTOR, checked).ok


@pytest.mark.parametrize(("reached", "ok"), [(0.981, True), (0.5, False), (math.nan, False)])
def test_the_optimum_must_be_reached(checked: CheckedTask, reached: float, ok: bool, monkeypatch: pytest.MonkeyPatch):
    """CHECKS 30; the training itself is tested where it is defined."""
    from textrl_agents.check.known_optimum import ExactResult

    monkeypatch.setattr(self_check, "train_exact_with_sb3", lambda *_, **__: ExactResult(None, reached, 12.3))  # type: ignore[arg-type]
    result = run_check(OPTIMUM, checked)
    assert result.ok is ok
    assert result.limit == 0.98
    assert "12 s" in result.detail


def test_run_checks_runs_them_all(tiny_task: Task, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CHECKS, OPTIMUM, lambda checked: self_check.Found(0.0, 0.0, "left out"))
    started: list[str] = []
    results = run_checks(task=tiny_task, device="cpu", progress=started.append)
    assert started == [result.name for result in results] == list(CHECKS)
    assert all(result.ok for result in results), results


def test_what_cannot_be_loaded_is_refused_and_not_a_row():
    with pytest.raises(UnknownName, match="Did you mean 'sentiment'"):
        run_checks(task="sentimen")
    with pytest.raises(ConfigError, match="does not exist"):
        run_checks(task="exact", model="./no-such-folder", device="cpu")


def test_rows_are_json():
    broken = CheckResult("a", False, math.nan, math.inf, "why")
    assert json.loads(json.dumps(broken.as_json(), allow_nan=False)) == {
        "name": "a",
        "ok": False,
        "value": None,
        "limit": None,
        "detail": "why",
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft calls it
def test_a_lora_model_is_left_as_it_was(tiny_task: Task, make_model: Any, tiny_tokenizer: Any):
    """The policy and its reference share these weights, so a check that trained on them would change the user's."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    checked = CheckedTask(tiny_task, model=model, tokenizer=tiny_tokenizer, device="cpu")
    results = [run_check(name, checked) for name in OF_THE_PARTS]
    assert all(result.ok for result in results), results
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


class Forgetful:
    """A turn environment whose reply depends on what it was asked in earlier episodes."""

    asked = 0

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        return "What is 1 + 1?", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        type(self).asked += 1
        return str(self.asked), 0.5, False, False, {}


def test_a_turn_environment_is_played():
    """Its rewards are the score."""
    sound = run_check("reward is well-behaved", CheckedTask("exact_turns"))
    assert sound.ok
    assert sound.detail == "8 episodes of the turn environment, each played twice"
    limits: dict[str, Any] = {"max_turns": 2, "max_prompt_tokens": 40, "max_turn_tokens": 8, "max_new_tokens": 60}
    forgetful = Task("forgetful", turns=Forgetful, **limits)
    told = run_check("reward is well-behaved", CheckedTask(forgetful)).detail
    assert "two episodes for one seed" in told
    assert "cannot be resumed" in told
    rewarded = run_check("reward is well-behaved", CheckedTask(forgetful, reward="length"))
    assert "scores from" in rewarded.detail
