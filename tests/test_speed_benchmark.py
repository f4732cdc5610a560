"""`textrl bench speed`: both sides do the same work, and rows say what was measured. Nothing here depends on time."""

from __future__ import annotations

import dataclasses
import inspect
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

from textrl_agents.check.known_optimum import ExactResult
from textrl_agents.sb3 import EpisodeRolloutBuffer
from textrl_agents.speed import measurement, speed
from textrl_agents.speed.measurement import Bench, Comparison, Measured, Measurement, Target, compare
from textrl_agents.speed.names import SPEED_ROWS
from textrl_agents.speed.sampling import rollout_rows
from textrl_agents.speed.sampling.rollout_rows import TransformersRollout
from textrl_agents.speed.speed import load_measurement, measure_row, run_speed
from textrl_agents.speed.training import learning_rows, update_rows
from textrl_agents.speed.workload import Workload
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.models import Reference, SamplingParams, Vocabulary
from textrl_env.rewards import ClassifierReward

CPU = torch.device("cpu")
PROMPTS = ["the soup at the old hotel", "the room", "hello"]
TINY: dict[str, dict[str, Any]] = {
    "rollout vs by hand, equal lengths": {"rows": 3, "tokens": 4},
    "rollout vs by hand, to EOS": {"rows": 3, "longest": 8, "n_steps": 4},
    "stepping vs generate, equal lengths": {"rows": 3, "tokens": 4},
    "scores: deferred vs stepwise": {"rows": 3, "longest": 8, "n_steps": 4},
    "scores: a judge of a second a call": {"seconds": 0.001, "rows": 3, "longest": 4, "n_steps": 8},
    "stepping vs generate_batch": {"rows": 3, "tokens": 4},
    "stepping: ahead vs slots": {"rows": 3, "tokens": 4},
    "update vs one prefix per transition": {"rows": 2, "tokens": 4},
    "update time per token, long vs short": {"long": 8, "short": 2, "batch_size": 16},
    "vector env alone": {"rows": 3, "longest": 8, "steps": 20},
    "feedback: export of 100,000 records": {"records": 20},
    "feedback: next of 100,000 questions": {"questions": 20, "calls": 16},
}
TINY_MEMORY = {"rows": 2, "tokens": 3, "vocabulary": 300}


@pytest.fixture
def workload(make_model: Any, tiny_tokenizer: Any) -> Workload:
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
    return Workload(make_model("llama"), tiny_tokenizer, PROMPTS, classifier, tiny_tokenizer, CPU)


@pytest.fixture
def bench(workload: Workload) -> Bench:
    return Bench(CPU, lambda: workload, repeats=1)


class TestTiming:
    def test_the_ratio_is_taken_within_each_round(self, monkeypatch: pytest.MonkeyPatch):
        """A machine that is ten times slower in one round must not show in the ratio."""
        speeds: Iterator[float] = iter([1.0, 99.0, 20.0, 10.0, 2.0, 1.0, 30.0, 10.0])
        monkeypatch.setattr(measurement, "speed", lambda work, device: next(speeds))
        result = compare(lambda: 1, lambda: 1, repeats=3, device=CPU)
        # The first round, 1 against 99, is the warm-up. The others: 2, 2 and 3.
        assert result == Comparison(ratio=2.0, ours=20.0, theirs=10.0)

    def test_both_sides_run_in_turn(self):
        order: list[str] = []
        compare(lambda: order.append("ours") or 1, lambda: order.append("theirs") or 1, repeats=2, device=CPU)  # type: ignore
        assert order == ["ours", "theirs"] * 3

    def test_speed_counts_the_work(self, monkeypatch: pytest.MonkeyPatch):
        clock = iter([5.0, 7.0])
        monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
        assert measurement.speed(lambda: 10, CPU) == 5.0


class TestTransformersRollout:
    """What is compared with must be right, or the comparison is worth nothing."""

    def test_reference_log_probs_are_the_references(self, workload: Workload):
        baseline = TransformersRollout(workload, 3, 12)
        sequences = baseline.generate()
        mask = baseline._response_mask(sequences)
        with torch.no_grad():
            got = baseline.reference_log_probs(sequences, mask)
        width = baseline._prompt_width
        ids, firsts = [], []
        for row, prompt in enumerate(workload.batch(3)):
            prompt_ids = workload.tokenizer(prompt)["input_ids"]
            response = sequences[row, width:][mask[row].bool()].tolist()
            ids.append(np.array([*prompt_ids, *response]))
            firsts.append(len(prompt_ids))
        # `generate` knows no banned ids, and the embedded model has none.
        everything = Vocabulary(320, np.array([1]), np.ones(320, dtype=bool))
        reference = Reference(workload.model, everything, SamplingParams(), 64)
        wanted = reference.episode_log_probs(pack_suffixes(ids, firsts, CPU))
        assert torch.allclose(got[mask.bool()], wanted, atol=1e-5)

    def test_scores_are_the_rewards(self, workload: Workload):
        baseline = TransformersRollout(workload, 3, 12)
        sequences = baseline.generate()
        mask = baseline._response_mask(sequences)
        with torch.no_grad():
            got = baseline.scores(sequences, mask)
        kept = [
            row[keep.bool()].tolist() for row, keep in zip(sequences[:, baseline._prompt_width :], mask, strict=True)
        ]
        responses = workload.tokenizer.batch_decode(kept, skip_special_tokens=True)
        reward = ClassifierReward(workload.classifier, workload.classifier_tokenizer)
        assert got.tolist() == pytest.approx(reward(workload.batch(3), responses), abs=1e-5)

    def test_tokens_count_up_to_and_with_the_first_eos(self, workload: Workload):
        baseline = TransformersRollout(workload, 3, 4)
        prompts = torch.zeros(3, baseline._prompt_width, dtype=torch.long)
        responses = torch.tensor([[5, 1, 1, 1], [5, 6, 7, 8], [1, 9, 1, 1]])
        mask = baseline._response_mask(torch.cat([prompts, responses], dim=1))
        assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]

    def test_without_eos_every_token_counts(self, workload: Workload):
        baseline = TransformersRollout(workload.without_eos(), 3, 6)
        assert baseline.generated_tokens() == baseline.rollout() == 18

    def test_it_samples_the_full_distribution(self, workload: Workload):
        """A model's own generation settings, such as a top-k, would make it another and a cheaper distribution."""
        workload.model.generation_config.update(top_k=1, temperature=0.1, do_sample=False)
        baseline = TransformersRollout(workload.without_eos(), 3, 12)
        assert not torch.equal(baseline.generate(), baseline.generate())

    def test_models_that_give_nan_are_not_timed(self, workload: Workload):
        with torch.no_grad():
            workload.classifier.score.weight.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            TransformersRollout(workload, 2, 3).rollout()


class TestWorkload:
    def test_without_eos_is_a_copy(self, workload: Workload):
        endless = workload.without_eos()
        assert len(Vocabulary.of(endless.model, endless.tokenizer).eos_ids) == 0
        assert Vocabulary.of(workload.model, workload.tokenizer).eos_ids.tolist() == [1, 3]

    def test_equal_lengths_are_equal(self, workload: Workload):
        agent = workload.without_eos().agent(3, 4, 4)
        assert agent.collect() == 12
        buffer = agent.agent.rollout_buffer
        assert isinstance(buffer, EpisodeRolloutBuffer)
        assert [len(episode.response_ids) for episode in buffer.episodes] == [4, 4, 4]
        assert {episode.finish_reason for episode in buffer.episodes} == {"length"}

    def test_updates_leave_the_work_as_it_is(self, workload: Workload):
        """A learning rate of 0: the next round measures the same model."""
        agent = workload.without_eos().agent(3, 4, 4, n_epochs=1, batch_size=12)
        before = [weight.clone() for weight in agent.agent.policy.parameters()]
        agent.collect()
        assert agent.train() == 12
        assert all(torch.equal(old, new) for old, new in zip(before, agent.agent.policy.parameters(), strict=True))


class TestMeasurements:
    @pytest.mark.parametrize("name", TINY)
    def test_rows(self, bench: Bench, name: str):
        row = measure_row(name, bench, quick=True, sizes=TINY[name])
        assert list(row) == ["name", "value", "unit", "target", "ok", "detail", "quick"]
        assert row["name"] == name
        assert row["quick"] is True
        assert row["value"] > 0, row
        assert math.isfinite(row["value"])
        assert isinstance(row["ok"], bool)
        assert row["target"].startswith((">= ", "<= "))
        assert row["detail"]
        assert row["unit"] in ("x", "us/token", "s", "ms")
        json.dumps(row, allow_nan=False)

    def test_both_buffers_hold_the_same_amount(self, bench: Bench, monkeypatch: pytest.MonkeyPatch):
        seen: list[tuple[int, int]] = []

        def once(ours: Any, theirs: Any, **_: Any) -> Comparison:
            seen.append((ours(), theirs()))
            return Comparison(1.0, 1.0, 1.0)

        monkeypatch.setattr(update_rows, "compare", once)
        update_rows.episodes_against_prefixes.measure(bench, rows=2, tokens=4)
        update_rows.long_against_short.measure(bench, long=8, short=2, batch_size=16)
        assert seen == [(8, 8), (16, 16)]

    def test_to_eos_real_tokens_alone_are_counted(
        self, bench: Bench, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ):
        seen: list[tuple[int, int]] = []

        def once(ours: Any, theirs: Any, **_: Any) -> Comparison:
            seen.append((ours(), theirs()))
            return Comparison(1.0, 1.0, 1.0)

        monkeypatch.setattr(rollout_rows, "compare", once)
        with torch.no_grad():  # EOS is all but certain, so generate's 8 tokens a row are mostly padding
            workload.model.lm_head.weight[1] = 50.0 * workload.model.lm_head.weight.sum(dim=0).sign()
        rollout_rows.rollout_to_eos.measure(bench, rows=3, longest=8, n_steps=5)
        assert seen[0][0] == 15
        assert 3 <= seen[0][1] <= 24

    def test_scripted_actions(self, workload: Workload):
        env = TextGenVectorEnv(
            4,
            workload.task(4, 64),
            autoreset_mode=AutoresetMode.SAME_STEP,
            kl_mode="deferred",
            model=workload.model,
            tokenizer=workload.tokenizer,
            device="cpu",
        )
        script = rollout_rows.scripted_actions(env, 64)
        share = (script == 1).mean()
        assert share == pytest.approx(1 / rollout_rows.MEAN_RESPONSE, rel=0.2)
        assert env.rules.vocabulary.known[script].all()

    def test_the_environment_alone_calls_no_model(self, bench: Bench, monkeypatch: pytest.MonkeyPatch):
        from textrl_env.models.causal_lm import CausalLM

        def forbidden(*arguments: Any, **named: Any) -> None:
            raise AssertionError("a model was called")

        original = TextGenVectorEnv.reset

        def reset(self: Any, **named: Any) -> Any:
            monkeypatch.setattr(CausalLM, "hidden", forbidden)  # built and probed by now
            return original(self, **named)

        monkeypatch.setattr(TextGenVectorEnv, "reset", reset)
        assert rollout_rows.environment_alone.measure(bench, rows=3, longest=8, steps=40).value > 0

    @pytest.mark.parametrize(
        ("seconds", "reached", "ok"), [(59.0, 0.99, True), (61.0, 0.99, False), (9.0, 0.97, False)]
    )
    def test_exact_has_two_conditions(
        self, bench: Bench, seconds: float, reached: float, ok: bool, monkeypatch: pytest.MonkeyPatch
    ):
        result = ExactResult(None, reached, seconds)  # type: ignore[arg-type]
        monkeypatch.setattr(learning_rows, "train_exact_with_sb3", lambda *_, **__: result)
        row = measure_row("exact: PPO vs optimum", bench, sizes={"iterations": 3})
        assert (row["ok"], row["value"], row["target"]) == (ok, reached, ">= 0.98")
        assert f"{seconds:.1f} s" in row["detail"]

    @pytest.mark.slow
    def test_exact_really_trains(self, bench: Bench):
        row = measure_row("exact: PPO vs optimum", bench, sizes={"iterations": 3})
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
            update_rows.peak_of_update(CPU, vocabulary=300, rows=2, tokens=3, chunked=chunked)
        assert [chunk is None for chunk in used] == [False, True]

    def test_peaks_become_a_row(self, bench: Bench, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(update_rows, "_in_child", lambda *arguments: 30 * 2**20 if arguments[-1] else 120 * 2**20)
        row = measure_row("update memory, chunked vs not", bench, sizes=TINY_MEMORY)
        assert (row["value"], row["ok"], row["target"]) == (0.25, True, "<= 0.4")
        assert "chunked 30 MiB, unchunked 120 MiB" in row["detail"]
        assert "6 tokens, vocabulary 300" in row["detail"]

    @pytest.mark.slow
    def test_a_child_measures(self):
        assert update_rows._in_child(CPU, 300, 2, 3, True) >= 0

    @pytest.mark.slow
    def test_a_child_that_fails_says_why(self, bench: Bench):
        row = measure_row("update memory, chunked vs not", bench, sizes={**TINY_MEMORY, "vocabulary": "many"})
        assert (row["value"], row["ok"]) == (None, False)
        assert "the measured update failed" in row["detail"]
        assert "'many'" in row["detail"]

    def test_a_peak_is_seen(self):
        """The gauge itself: memory that was held for a moment shows."""
        before = update_rows._held(CPU)
        # Straight from the kernel: an allocator may hand out memory that earlier tests freed and that is resident yet.
        with mmap.mmap(-1, 256 * 2**20) as block:
            for start in range(0, len(block), mmap.PAGESIZE):
                block[start] = 1
        assert update_rows._peak(CPU) - before > 200 * 2**20


class TestRunSpeed:
    def test_targets_point_the_right_way(self):
        assert Target(">=", 1.0).met_by(1.0)
        assert not Target(">=", 1.0).met_by(0.99)
        assert Target("<=", 5.0).met_by(5.0)
        assert not Target("<=", 5.0).met_by(5.01)
        assert not Target("<=", 5.0).met_by(math.nan)
        assert str(Target("<=", 0.4)) == "<= 0.4"

    def test_only_and_progress(self, workload: Workload, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(speed, "embedded_workload", lambda device: workload)
        monkeypatch.setattr(
            speed, "load_measurement", lambda name, table: dataclasses.replace(load_measurement(name), quick=TINY[name])
        )
        started: list[str] = []
        rows = run_speed(
            device="cpu", only=["stepping vs generate,", "vector"], repeats=1, quick=True, progress=started.append
        )
        assert [row["name"] for row in rows] == started == ["stepping vs generate, equal lengths", "vector env alone"]
        assert all(row["ok"] is not None and row["value"] for row in rows), rows

    def test_threads_are_given_back(self, monkeypatch: pytest.MonkeyPatch):
        seen: list[int] = []

        def measure(bench: Bench) -> Measured:
            seen.append(torch.get_num_threads())
            return Measured(1.0, "")

        monkeypatch.setattr(speed, "load_measurement", lambda name, table: Measurement(measure, Target(">=", 1.0)))
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            run_speed(device="cpu", only="vector")
            assert seen == [1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_one_that_fails_is_a_row(self, monkeypatch: pytest.MonkeyPatch):
        def broken(bench: Bench) -> Measured:
            raise RuntimeError("out of paper")

        monkeypatch.setattr(speed, "load_measurement", lambda name, table: Measurement(broken, Target(">=", 1.0)))
        (row,) = run_speed(device="cpu", only="vector env alone")
        assert (row["value"], row["ok"], row["detail"]) == (None, False, "RuntimeError: out of paper")

    def test_wrong_arguments(self):
        with pytest.raises(UnknownName, match="Did you mean 'vector env alone'"):
            run_speed(only="vectr env alone", device="cpu")
        with pytest.raises(ConfigError, match="repeats must be a whole number >= 1, got 0"):
            run_speed(repeats=0, device="cpu")
        with pytest.raises(UnknownName, match="unknown device"):
            run_speed(device="toaster")

    @pytest.mark.parametrize("name", SPEED_ROWS)
    def test_quick_does_less_everywhere(self, name: str):
        """Of the sizes that the measurement has, and never more of one."""
        pytest.importorskip({"rllib": "ray", "trl": "trl"}.get(name.partition(":")[0], "torch"))
        row = load_measurement(name)
        full = {size: argument.default for size, argument in inspect.signature(row.measure).parameters.items()}
        assert all(row.quick[size] < full[size] for size in row.quick)

    def test_quick_sizes_and_their_target(self, bench: Bench, monkeypatch: pytest.MonkeyPatch):
        @measurement.measurement(Target(">=", 5), quick={"work": 2}, quick_target=Target(">=", 1))
        def row(bench: Bench, *, work: int = 9) -> Measured:
            return Measured(work, "")

        monkeypatch.setattr(speed, "load_measurement", lambda name, table: row)
        full, quick = (measure_row("a", bench, quick=quick) for quick in (False, True))
        assert (full["value"], full["target"], full["ok"]) == (9, ">= 5", True)
        assert (quick["value"], quick["target"], quick["ok"]) == (2, ">= 1", True)
