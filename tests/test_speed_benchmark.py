"""`textrl bench speed`: both sides do the same work, and rows say what was measured. Nothing here depends on time."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from suffixes import pack_suffixes
from transformers import LlamaConfig, LlamaForSequenceClassification

from textrl_agents.sb3 import EpisodeRolloutBuffer
from textrl_agents.sb3.exact import ExactResult
from textrl_agents.speed import env_speed, generation_speed, speed, timing, update_memory, update_speed
from textrl_agents.speed.speed import FULL, MEASUREMENTS, Measured, Run, Target, measure_row, run_speed
from textrl_agents.speed.timing import Comparison, compare
from textrl_agents.speed.transformers_baseline import ByHand
from textrl_agents.speed.workload import Subject
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.models import Reference, SamplingParams, Vocabulary
from textrl_env.rewards import ClassifierReward

CPU = torch.device("cpu")
PROMPTS = ["the soup at the old hotel", "the room", "hello"]
TINY = FULL._replace(
    rows=3,
    tokens=4,
    longest=8,
    prefix_rows=2,
    prefix_tokens=4,
    long_tokens=8,
    short_tokens=2,
    batch_tokens=16,
    memory_rows=2,
    memory_tokens=3,
    vocabulary=300,
    env_steps=20,
    exact_iterations=3,
)
OF_A_MODEL = [name for name in MEASUREMENTS if name.split()[0] in ("rollout", "stepping", "update", "vector")]
ON_THE_SUBJECT = [name for name in OF_A_MODEL if "memory" not in name]


@pytest.fixture
def subject(make_model: Any, tiny_tokenizer: Any) -> Subject:
    """A tiny Llama and a tiny classifier over one tokenizer."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    classifier = LlamaForSequenceClassification(config).eval()
    return Subject(make_model("llama"), tiny_tokenizer, PROMPTS, classifier, tiny_tokenizer, CPU)


@pytest.fixture
def run(subject: Subject) -> Run:
    return Run(CPU, lambda: subject, TINY, 1)


class TestTiming:
    def test_the_ratio_is_taken_within_each_round(self, monkeypatch: pytest.MonkeyPatch):
        """A machine that is ten times slower in one round must not show in the ratio."""
        speeds: Iterator[float] = iter([1.0, 99.0, 20.0, 10.0, 2.0, 1.0, 30.0, 10.0])
        monkeypatch.setattr(timing, "speed", lambda work, device: next(speeds))
        result = compare(lambda: 1, lambda: 1, repeats=3, device=CPU)
        # The first round, 1 against 99, is the warm-up. The others: 2, 2 and 3.
        assert result == Comparison(ratio=2.0, ours=20.0, theirs=10.0)

    def test_both_sides_run_in_turn(self):
        order: list[str] = []
        compare(lambda: order.append("ours") or 1, lambda: order.append("theirs") or 1, repeats=2, device=CPU)  # type: ignore
        assert order == ["ours", "theirs"] * 3

    def test_speed_counts_the_work(self, monkeypatch: pytest.MonkeyPatch):
        clock = iter([5.0, 7.0])
        monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
        assert timing.speed(lambda: 10, CPU) == 5.0


class TestByHand:
    """What is compared with must be right, or the comparison is worth nothing."""

    def test_reference_log_probs_are_the_references(self, subject: Subject):
        by_hand = ByHand(subject, 3, 12)
        sequences = by_hand.generate()
        mask = by_hand._response_mask(sequences)
        with torch.no_grad():
            got = by_hand.reference_log_probs(sequences, mask)
        width = by_hand._prompt_width
        ids, firsts = [], []
        for row, prompt in enumerate(subject.batch(3)):
            prompt_ids = subject.tokenizer(prompt)["input_ids"]
            response = sequences[row, width:][mask[row].bool()].tolist()
            ids.append(np.array([*prompt_ids, *response]))
            firsts.append(len(prompt_ids))
        # `generate` knows no banned ids, and the embedded model has none.
        everything = Vocabulary(320, np.array([1]), np.ones(320, dtype=bool))
        reference = Reference(subject.model, everything, SamplingParams(), 64)
        wanted = reference.episode_log_probs(pack_suffixes(ids, firsts, CPU))
        assert torch.allclose(got[mask.bool()], wanted, atol=1e-5)

    def test_scores_are_the_rewards(self, subject: Subject):
        by_hand = ByHand(subject, 3, 12)
        sequences = by_hand.generate()
        mask = by_hand._response_mask(sequences)
        with torch.no_grad():
            got = by_hand.scores(sequences, mask)
        kept = [
            row[keep.bool()].tolist() for row, keep in zip(sequences[:, by_hand._prompt_width :], mask, strict=True)
        ]
        responses = subject.tokenizer.batch_decode(kept, skip_special_tokens=True)
        reward = ClassifierReward(subject.classifier, subject.classifier_tokenizer)
        assert got.tolist() == pytest.approx(reward(subject.batch(3), responses), abs=1e-5)

    def test_tokens_count_up_to_and_with_the_first_eos(self, subject: Subject):
        by_hand = ByHand(subject, 3, 4)
        prompts = torch.zeros(3, by_hand._prompt_width, dtype=torch.long)
        responses = torch.tensor([[5, 1, 1, 1], [5, 6, 7, 8], [1, 9, 1, 1]])
        mask = by_hand._response_mask(torch.cat([prompts, responses], dim=1))
        assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]

    def test_without_eos_every_token_counts(self, subject: Subject):
        by_hand = ByHand(subject.without_eos(), 3, 6)
        assert by_hand.generated_tokens() == by_hand.rollout() == 18

    def test_it_samples_the_full_distribution(self, subject: Subject):
        """A model's own generation settings, such as a top-k, would make it another and a cheaper distribution."""
        subject.model.generation_config.update(top_k=1, temperature=0.1, do_sample=False)
        by_hand = ByHand(subject.without_eos(), 3, 12)
        assert not torch.equal(by_hand.generate(), by_hand.generate())

    def test_models_that_give_nan_are_not_timed(self, subject: Subject):
        with torch.no_grad():
            subject.classifier.score.weight.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            ByHand(subject, 2, 3).rollout()


class TestSubject:
    def test_without_eos_is_a_copy(self, subject: Subject):
        endless = subject.without_eos()
        assert len(Vocabulary.of(endless.model, endless.tokenizer).eos_ids) == 0
        assert Vocabulary.of(subject.model, subject.tokenizer).eos_ids.tolist() == [1]

    def test_equal_lengths_are_equal(self, subject: Subject):
        agent = subject.without_eos().agent(3, 4, 4)
        assert agent.collect() == 12
        buffer = agent.agent.rollout_buffer
        assert isinstance(buffer, EpisodeRolloutBuffer)
        assert [len(episode.response_ids) for episode in buffer.episodes] == [4, 4, 4]
        assert {episode.finish_reason for episode in buffer.episodes} == {"length"}

    def test_updates_leave_the_work_as_it_is(self, subject: Subject):
        """A learning rate of 0: the next round measures the same model."""
        agent = subject.without_eos().agent(3, 4, 4, n_epochs=1, batch_size=12)
        before = [weight.clone() for weight in agent.agent.policy.parameters()]
        agent.collect()
        assert agent.train() == 12
        assert all(torch.equal(old, new) for old, new in zip(before, agent.agent.policy.parameters(), strict=True))


class TestMeasurements:
    @pytest.mark.parametrize("name", ON_THE_SUBJECT)
    def test_rows(self, run: Run, name: str):
        row = measure_row(name, run, quick=True)
        assert list(row) == ["name", "value", "unit", "target", "ok", "detail", "quick"]
        assert row["name"] == name
        assert row["quick"] is True
        assert row["value"] > 0, row
        assert math.isfinite(row["value"])
        assert isinstance(row["ok"], bool)
        assert row["target"].startswith((">= ", "<= "))
        assert row["detail"]
        assert row["unit"] in ("x", "us/token")
        json.dumps(row, allow_nan=False)

    def test_both_buffers_hold_the_same_amount(self, subject: Subject, monkeypatch: pytest.MonkeyPatch):
        seen: list[tuple[int, int]] = []

        def once(ours: Any, theirs: Any, **_: Any) -> Comparison:
            seen.append((ours(), theirs()))
            return Comparison(1.0, 1.0, 1.0)

        monkeypatch.setattr(update_speed, "compare", once)
        update_speed.episodes_against_prefixes(subject, rows=2, tokens=4, batch_size=4, repeats=1)
        update_speed.long_against_short(subject, long=8, short=2, batch_size=16, repeats=1)
        assert seen == [(8, 8), (16, 16)]

    def test_to_eos_real_tokens_alone_are_counted(self, subject: Subject, monkeypatch: pytest.MonkeyPatch):
        seen: list[tuple[int, int]] = []

        def once(ours: Any, theirs: Any, **_: Any) -> Comparison:
            seen.append((ours(), theirs()))
            return Comparison(1.0, 1.0, 1.0)

        monkeypatch.setattr(generation_speed, "compare", once)
        with torch.no_grad():  # EOS is all but certain, so generate's 8 tokens a row are mostly padding
            subject.model.lm_head.weight[1] = 50.0 * subject.model.lm_head.weight.sum(dim=0).sign()
        generation_speed.rollout_to_eos(subject, rows=3, tokens=8, n_steps=5, repeats=1)
        assert seen[0][0] == 15
        assert 3 <= seen[0][1] <= 24

    def test_scripted_actions(self, subject: Subject):
        env = TextGenVectorEnv(
            4,
            subject.task(4, 64),
            autoreset_mode=AutoresetMode.SAME_STEP,
            kl_mode="deferred",
            model=subject.model,
            tokenizer=subject.tokenizer,
            device="cpu",
        )
        script = env_speed.scripted_actions(env, 64)
        share = (script == 1).mean()
        assert share == pytest.approx(1 / env_speed.MEAN_RESPONSE, rel=0.2)
        assert env.rules.vocabulary.known[script].all()

    def test_the_environment_alone_calls_no_model(self, subject: Subject, monkeypatch: pytest.MonkeyPatch):
        from textrl_env.models.causal_lm import CausalLM

        def forbidden(*arguments: Any, **named: Any) -> None:
            raise AssertionError("a model was called")

        original = TextGenVectorEnv.reset

        def reset(self: Any, **named: Any) -> Any:
            monkeypatch.setattr(CausalLM, "hidden", forbidden)  # built and probed by now
            return original(self, **named)

        monkeypatch.setattr(TextGenVectorEnv, "reset", reset)
        assert env_speed.microseconds_per_token(subject, rows=3, tokens=8, steps=40, repeats=1) > 0

    @pytest.mark.parametrize(
        ("seconds", "reached", "ok"), [(59.0, 0.99, True), (61.0, 0.99, False), (9.0, 0.97, False)]
    )
    def test_exact_has_two_conditions(
        self, run: Run, seconds: float, reached: float, ok: bool, monkeypatch: pytest.MonkeyPatch
    ):
        result = ExactResult(None, reached, seconds)  # type: ignore[arg-type]
        monkeypatch.setattr(speed, "train_exact", lambda *_, **__: result)
        row = measure_row("exact: PPO vs optimum", run)
        assert (row["ok"], row["value"], row["target"]) == (ok, reached, ">= 0.98")
        assert f"{seconds:.1f} s" in row["detail"]

    def test_exact_really_trains(self, run: Run):
        row = measure_row("exact: PPO vs optimum", run)
        assert row["ok"] is False  # three iterations do not get there
        assert row["value"] != 0


class TestMemory:
    def test_chunking_is_what_differs(self, monkeypatch: pytest.MonkeyPatch):
        """The unchunked side must really project all tokens at once."""
        from textrl_env.models import actor_critic

        original, used = actor_critic.token_statistics, []

        def spy(*arguments: Any, **named: Any) -> Any:
            used.append(named["chunk_elements"])
            return original(*arguments, **named)

        monkeypatch.setattr(actor_critic, "token_statistics", spy)
        for chunked in (True, False):
            update_memory.peak_of_update(CPU, vocabulary=300, rows=2, tokens=3, chunked=chunked)
        assert [chunk is None for chunk in used] == [False, True]

    def test_peaks_become_a_row(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(update_memory, "_in_child", lambda *arguments: 30 * 2**20 if arguments[-1] else 120 * 2**20)
        row = measure_row("update memory, chunked vs not", run)
        assert (row["value"], row["ok"], row["target"]) == (0.25, True, "<= 0.4")
        assert "chunked 30 MiB, unchunked 120 MiB" in row["detail"]
        assert "6 tokens, vocabulary 300" in row["detail"]

    @pytest.mark.slow
    def test_a_child_measures(self):
        assert update_memory._in_child(CPU, 300, 2, 3, True) >= 0

    def test_a_child_that_fails_says_why(self, run: Run):
        row = measure_row("update memory, chunked vs not", run._replace(sizes=TINY._replace(vocabulary="many")))  # type: ignore
        assert (row["value"], row["ok"]) == (None, False)
        assert "the measured update failed" in row["detail"]
        assert "invalid int value: 'many'" in row["detail"]

    def test_a_peak_is_seen(self):
        """The gauge itself: memory that was held for a moment shows."""
        before = update_memory._held(CPU)
        # Straight from the kernel: an allocator may hand out memory that earlier tests freed and that is resident yet.
        with mmap.mmap(-1, 256 * 2**20) as block:
            for start in range(0, len(block), mmap.PAGESIZE):
                block[start] = 1
        assert update_memory._peak(CPU) - before > 200 * 2**20


class TestRunSpeed:
    def test_targets_point_the_right_way(self):
        assert Target(">=", 1.0).met_by(1.0)
        assert not Target(">=", 1.0).met_by(0.99)
        assert Target("<=", 5.0).met_by(5.0)
        assert not Target("<=", 5.0).met_by(5.01)
        assert not Target("<=", 5.0).met_by(math.nan)
        assert str(Target("<=", 0.4)) == "<= 0.4"

    def test_only_and_progress(self, subject: Subject, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(speed, "embedded_subject", lambda device: subject)
        monkeypatch.setattr(speed, "QUICK", TINY)
        started: list[str] = []
        rows = run_speed(device="cpu", only=["stepping", "vector"], repeats=1, quick=True, progress=started.append)
        assert [row["name"] for row in rows] == started == ["stepping vs generate, equal lengths", "vector env alone"]

    def test_threads_are_given_back(self, monkeypatch: pytest.MonkeyPatch):
        seen: list[int] = []

        def measured(run: Run) -> Measured:
            seen.append(torch.get_num_threads())
            return Measured(1.0, Target(">=", 1.0), "")

        monkeypatch.setitem(MEASUREMENTS, "vector env alone", measured)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            run_speed(device="cpu", only="vector")
            assert seen == [1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_one_that_fails_is_a_row(self, monkeypatch: pytest.MonkeyPatch):
        def broken(run: Run) -> Measured:
            raise RuntimeError("out of paper")

        monkeypatch.setitem(MEASUREMENTS, "vector env alone", broken)
        (row,) = run_speed(device="cpu", only="vector env alone")
        assert (row["value"], row["ok"], row["detail"]) == (None, False, "RuntimeError: out of paper")

    def test_wrong_arguments(self):
        with pytest.raises(UnknownName, match="Did you mean 'vector env alone'"):
            run_speed(only="vectr env alone", device="cpu")
        with pytest.raises(ConfigError, match="repeats must be a whole number >= 1, got 0"):
            run_speed(repeats=0, device="cpu")
        with pytest.raises(UnknownName, match="unknown device"):
            run_speed(device="toaster")

    def test_quick_does_less_everywhere(self):
        less = [quick <= full for quick, full in zip(speed.QUICK, FULL, strict=True) if full is not None]
        assert all(less)
