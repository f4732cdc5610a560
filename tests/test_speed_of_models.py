"""`textrl bench speed --model`: operations and bytes against torch's own counter, bounds by hand, rows on real work."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed import speed
from textrl_agents.speed.measurement import Bench, Comparison
from textrl_agents.speed.names import MODEL_ROWS, SPEED_ROWS, chosen_names
from textrl_agents.speed.pretrained import model_rows
from textrl_agents.speed.pretrained.workload import PretrainedWorkload, pretrained_workload
from textrl_agents.speed.random_llama import LlamaSize, llama_phases
from textrl_agents.speed.rooflines import ppo_bounds
from textrl_agents.speed.rooflines.model_costs import ModelCosts, matrix_shapes
from textrl_agents.speed.rooflines.peaks import CPU_COPY, CUDA_COPY, LARGEST_COPY, Peaks, copy_bytes, measure_peaks
from textrl_agents.speed.rooflines.ppo_bounds import RolloutWork, rollout_bound, time_ppo, update_bound
from textrl_agents.speed.speed import load_measurement, measure_row, run_speed
from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.models import CausalLMActorCritic, load_model
from textrl_env.trajectory import Trajectory

pytest.importorskip("peft")
pytest.importorskip("vaderSentiment")

CPU = torch.device("cpu")
ROWS, TOKENS = 3, 7
TINY: dict[str, dict[str, int]] = {
    "rollout": {"rows": 3, "n_steps": 4},
    "rollout: share of its roofline": {"rows": 3, "n_steps": 4},
    "update": {"rows": 3, "n_steps": 4},
    "update: share of its roofline": {"rows": 3, "n_steps": 4},
    "end to end": {"rows": 3, "n_steps": 4},
    "rollout vs generate, equal lengths": {"rows": 3, "tokens": 4},
    "rollout vs generate, to EOS": {"rows": 3, "n_steps": 4, "longest": 8},
}


def llama(tokenizer: Any, lora: dict[str, Any] | None = None) -> CausalLMActorCritic:
    """A Llama whose keys are narrower than its queries, and whose attention is counted as ordinary products."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation="eager",
    )
    loaded = load_model(LlamaForCausalLM(config), tokenizer=tokenizer, device="cpu", lora=lora)
    return CausalLMActorCritic(loaded.model, loaded.tokenizer, max_length=32)


class TestModelCosts:
    def test_weights_by_hand(self, tiny_tokenizer: Any):
        costs = ModelCosts.of(llama(tiny_tokenizer))
        attention = 24 * 32 + 2 * 24 * 16 + 32 * 24
        assert costs == ModelCosts(
            body=2 * (attention + 3 * 24 * 40),
            adapter=0,
            head=320 * 24,
            layers=2,
            attention=32,
            keys=16,
            itemsize=4,
            adapter_alone=False,
        )
        assert costs.weights == costs.body + 320 * 24

    def test_an_adapter_is_counted_apart(self, tiny_tokenizer: Any):
        plain, adapted = ModelCosts.of(llama(tiny_tokenizer)), ModelCosts.of(llama(tiny_tokenizer, {"r": 2}))
        # r (in + out) for each of a layer's seven matrices.
        ends = [(24, 32), (24, 16), (24, 16), (32, 24), (24, 40), (24, 40), (40, 24)]
        assert adapted == dataclasses.replace(plain, adapter=2 * sum(2 * (a + b) for a, b in ends), adapter_alone=True)

    def test_shapes_hold_all_weights_but_the_adapters(self, tiny_tokenizer: Any):
        policy = llama(tiny_tokenizer, {"r": 2})
        costs = ModelCosts.of(policy)
        assert sum(rows * columns for rows, columns in matrix_shapes(policy)) == costs.body + costs.head

    def test_forward_is_what_torch_counts(self, tiny_tokenizer: Any):
        """Eager attention looks at all T x T pairs, so that is what the contexts sum to here."""
        policy = llama(tiny_tokenizer)
        ids = torch.randint(320, (ROWS, TOKENS))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            policy.model(ids, use_cache=False)
        tokens = ROWS * TOKENS
        wanted = ModelCosts.of(policy).forward_flops(tokens, tokens, ROWS * TOKENS**2)
        # Besides, the angles of the rotary embedding: a product of 4 frequencies with T positions.
        assert counter.get_total_flops() == pytest.approx(wanted, rel=1e-3)

    @pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["all weights", "adapter"])
    def test_an_update_is_what_torch_counts(self, tiny_tokenizer: Any, lora: dict[str, Any] | None):
        policy = llama(tiny_tokenizer, lora)
        ids = torch.randint(320, (ROWS, TOKENS))
        with FlopCounterMode(display=False) as counter:
            policy.model(input_ids=ids, use_cache=False).logits.sum().backward()
        tokens = ROWS * TOKENS
        costs = ModelCosts.of(policy)
        wanted = costs.update_flops(tokens, tokens, ROWS * TOKENS**2)
        # With an adapter nothing asks for the gradient of the embeddings, so the first layer's three matrices that read
        # them need none.
        spared = 0 if lora is None else 2 * tokens * (24 * 32 + 2 * 24 * 16 + 3 * 2 * 24)
        assert counter.get_total_flops() == pytest.approx(wanted - spared, rel=1e-3)

    def test_decoding_reads_weights_once_and_keys_of_every_row(self, tiny_tokenizer: Any):
        costs = dataclasses.replace(ModelCosts.of(llama(tiny_tokenizer)), itemsize=2)
        once, longer = costs.decode_bytes(10), costs.decode_bytes(11)
        assert once == 2 * (costs.weights + 2 * 2 * 16 * 10)
        assert longer - once == 2 * 2 * 2 * 16


class TestBounds:
    COSTS = ModelCosts(body=100, adapter=10, head=50, layers=2, attention=4, keys=4, itemsize=2, adapter_alone=True)
    WORK = RolloutWork(steps=2, actions=6, states=20, begun=5.0, contexts=70, acted_on=30)

    def test_the_work_in_a_rollout(self):
        """Two rows, three steps: one goes on from the last rollout, and the other ends and begins anew."""

        def stretch(length: int, acted: list[int]) -> Trajectory:
            is_action = np.zeros(length, dtype=bool)
            is_action[acted] = True
            return Trajectory(np.zeros(length, dtype=np.int64), is_action)

        prompts = [SimpleNamespace(ids=[1, 2]), SimpleNamespace(ids=[1, 2, 3, 4])]
        agent = SimpleNamespace(
            n_steps=3,
            n_envs=2,
            env=SimpleNamespace(env=SimpleNamespace(prompts=prompts)),
            rollout_buffer=SimpleNamespace(
                trajectories=[stretch(7, [4, 5, 6]), stretch(4, [3]), stretch(4, [2, 3])],
            ),
        )
        work = RolloutWork.of(agent)
        # One stretch more than rows, whose prompt has 3 tokens on average. Sequences of 6, 3 and 3 states; all begin
        # with the same id, and the second is the first state of one.
        assert work == RolloutWork(
            steps=3, actions=6, states=12 - 2, begun=3.0, contexts=21 + 6 + 6, acted_on=4 + 5 + 6 + 3 + 2 + 3
        )

    def test_a_rollout_by_hand(self):
        """3 rows and 15 positions a step: 2 (110 + 50) 3 + 4 2 4 15 operations, and 2 (160 + 2 2 4 15) bytes."""
        step_flops, step_bytes = 960 + 480, 2 * (160 + 240)
        prompts, reference = 2 * 110 * 5, 2 * 100 * 20 + 2 * 50 * 6 + 4 * 2 * 4 * 70
        for peaks, step in ((Peaks(10.0, 1e9), step_flops / 10), (Peaks(10.0, 2.0), step_bytes / 2)):
            wanted = 2 * step + (prompts + reference) / 10
            assert rollout_bound(self.WORK, self.COSTS, peaks) == pytest.approx(wanted)

    def test_an_update_by_hand(self):
        once = (4 * 100 + 6 * 10) * 20 + 4 * 50 * 6 + 12 * 2 * 4 * 70
        assert update_bound(self.WORK, self.COSTS, Peaks(10.0, 1.0), epochs=3) == pytest.approx(3 * once / 10)
        whole = dataclasses.replace(self.COSTS, adapter=0, adapter_alone=False)
        once = 6 * 100 * 20 + 6 * 50 * 6 + 12 * 2 * 4 * 70
        assert update_bound(self.WORK, whole, Peaks(10.0, 1.0), epochs=1) == pytest.approx(once / 10)

    def test_times_are_medians_without_the_first(self, monkeypatch: pytest.MonkeyPatch):
        size = LlamaSize(16, 1, 2, 1)
        phases = llama_phases(size, rows=2, tokens=3, device=CPU, vocabulary=64)
        seconds = iter([99.0, 99.0, 1.0, 10.0, 5.0, 20.0, 2.0, 60.0])
        monkeypatch.setattr(ppo_bounds, "timed", lambda work, device: (work(), next(seconds)))
        times = time_ppo(phases, Peaks(1e9, 1e9), repeats=3, device=CPU)
        assert (times.rollout, times.update, times.tokens) == (2.0, 20.0, 6)
        assert times.end_to_end == pytest.approx(6 / 22)
        costs = ModelCosts.of(phases.agent.policy.actor_critic)  # type: ignore[union-attr, arg-type]
        # Both rows begin with each rollout: 8 + 3 ids, of which 10 are states, and 7 of these are the same in both.
        assert times.update_bound == pytest.approx(costs.update_flops(20 - 7, 6, 2 * 55) / 1e9)

    def test_peaks_are_rates(self):
        peaks = measure_peaks([(8, 4), (8, 4), (4, 8)], torch.bfloat16, CPU, repeats=1, rows=4, copied=4096)
        assert all(0 < peak < 1e15 for peak in peaks)
        assert peaks.seconds(peaks.flops, 2 * peaks.bandwidth) == pytest.approx(2.0)
        assert CPU_COPY <= copy_bytes(CPU) <= LARGEST_COPY
        assert copy_bytes(torch.device("cuda")) == CUDA_COPY


@pytest.fixture(scope="module")
def workload() -> PretrainedWorkload:
    return pretrained_workload("embedded", CPU)


class TestRows:
    @pytest.mark.parametrize("name", TINY)
    def test_rows(self, workload: PretrainedWorkload, name: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(vars(workload), "peaks", Peaks(1e11, 1e10))
        row = measure_row(name, Bench(CPU, lambda: workload, 1), quick=True, sizes=TINY[name], table=MODEL_ROWS)
        assert row["value"] is not None, row["detail"]
        assert row["value"] > 0
        assert row["unit"] in ("x", "tokens/s", "of roofline")
        assert (row["target"] == "") == (row["unit"] != "x")
        assert isinstance(row["ok"], bool)
        assert "tokens" in row["detail"] or "rollout" in row["detail"]
        json.dumps(row, allow_nan=False)

    def test_rows_of_one_rollout_tell_of_the_same(self, workload: PretrainedWorkload, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(vars(workload), "peaks", Peaks(1e11, 1e10))
        calls: list[int] = []
        collect = SB3Phases.collect
        monkeypatch.setattr(SB3Phases, "collect", lambda phases: calls.append(1) or collect(phases))
        bench = Bench(CPU, lambda: workload, 2)
        found = {
            name: measure_row(name, bench, sizes={"rows": 2, "n_steps": 3}, table=MODEL_ROWS)["value"]
            for name in ("rollout", "update", "end to end")
        }
        assert len(calls) == 3  # two that count, and one before
        assert 1 / found["end to end"] == pytest.approx(1 / found["rollout"] + 1 / found["update"])

    def test_both_sides_hold_the_adapter_and_ask_the_same(self, workload: PretrainedWorkload):
        """The prompts are the environment's: chats, which a base model's raw text would make shorter."""
        task = workload.task(2, 4)
        assert task.as_chat
        assert task.max_prompt_tokens == max(map(len, workload.prompt_ids(2)))
        assert any("lora_" in name for name, _ in workload.generator.named_parameters())
        raw = workload.tokenizer(workload.batch(2))["input_ids"]
        assert all(len(chat) > len(text) for chat, text in zip(workload.prompt_ids(2), raw, strict=True))

    def test_generate_ends_where_the_environment_does(self, workload: PretrainedWorkload):
        ends = workload.generator.generation_config.eos_token_id
        assert workload.policy.vocabulary.eos_ids.tolist() == ends
        assert len(ends) == 2  # the end of a text, and of a turn

    def test_equal_lengths_are_equal_on_both_sides(self, workload: PretrainedWorkload, monkeypatch: pytest.MonkeyPatch):
        seen: list[tuple[int, int]] = []

        def once(ours: Any, theirs: Any, **_: Any) -> Comparison:
            seen.append((ours(), theirs()))
            return Comparison(1.0, 1.0, 1.0)

        monkeypatch.setattr(model_rows, "compare", once)
        model_rows.rollout_of_equal_lengths.measure(Bench(CPU, lambda: workload, 1), rows=3, tokens=5)
        assert seen == [(15, 15)]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [name for name in MODEL_ROWS if name.startswith("trl: ")])
    def test_trl(self, workload: PretrainedWorkload, name: str):
        pytest.importorskip("trl")
        row = measure_row(name, Bench(CPU, lambda: workload, 1), sizes={"rows": 8}, table=MODEL_ROWS)
        assert row["value"] is not None, row["detail"]
        assert row["value"] > 0.2
        assert "TRL" in row["detail"]

    @pytest.mark.parametrize("name", MODEL_ROWS)
    def test_quick_does_less_everywhere(self, name: str):
        import inspect

        row = load_measurement(name, MODEL_ROWS)
        full = {size: argument.default for size, argument in inspect.signature(row.measure).parameters.items()}
        assert all(row.quick[size] < full[size] for size in row.quick)


class TestCommand:
    def test_only_may_be_given_several_times(self, monkeypatch: pytest.MonkeyPatch):
        seen: dict[str, Any] = {}
        stand_in = SimpleNamespace(run_speed=lambda **arguments: seen.update(arguments) or [])
        monkeypatch.setitem(sys.modules, "textrl_agents.speed.speed", stand_in)
        arguments = ["bench", "speed", "--model", "embedded", "--only", "end to", "--only", "update", "--threads", "2"]
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        assert (seen["only"], seen["model"], seen["threads"]) == (["end to", "update"], "embedded", 2)
        names = chosen_names(seen["only"], MODEL_ROWS)
        assert names == ["update", "end to end"]

    def test_tables_have_names_of_their_own(self):
        assert chosen_names(None) == chosen_names([]) == list(SPEED_ROWS)
        assert chosen_names(None, MODEL_ROWS) == list(MODEL_ROWS)
        assert chosen_names("roofline", MODEL_ROWS) == [name for name in MODEL_ROWS if "roofline" in name]
        assert chosen_names("update", MODEL_ROWS) == ["update"]  # the row of that name, and not all that contain it
        with pytest.raises(UnknownName, match="unknown measurement 'exact'"):
            chosen_names(["exact"], MODEL_ROWS)
        result = CliRunner().invoke(app, ["bench", "speed", "--model", "embedded", "--only", "exact"])
        assert result.exit_code == 2

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    @pytest.mark.parametrize("model", [None, "embedded"])
    def test_no_gpu(self, model: str | None):
        arguments = ["bench", "speed", "--device", "cuda", *([] if model is None else ["--model", model])]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "device 'cuda' cannot be used here" in result.stderr

    def test_a_model_that_is_not_there(self, tmp_path: Path):
        result = CliRunner().invoke(app, ["bench", "speed", "--model", str(tmp_path / "absent")])
        assert result.exit_code == 2
        assert "does not exist" in result.stderr
        with pytest.raises(ModelError, match="does not exist"):
            run_speed(model=str(tmp_path / "absent"), device="cpu")
        for name in ("threads", "rows"):
            with pytest.raises(ConfigError, match=f"{name} must be a whole number >= 1, got 0"):
                run_speed(**{name: 0}, device="cpu")  # type: ignore[arg-type]

    def test_rows_reach_what_has_such_a_size(self, workload: PretrainedWorkload, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(vars(workload), "peaks", Peaks(1e11, 1e10))
        monkeypatch.setattr(speed, "_workload", lambda model, device: lambda: workload)
        first, second = run_speed(
            model="embedded", device="cpu", repeats=1, quick=True, rows=2, only=["device: memory", "end to end"]
        )
        assert first["value"] == 10.0
        assert second["value"] > 0, second["detail"]
        assert any(key[0] == 2 for key in workload._times)
