"""Supervised fine-tuning by TRL's stock trainer: what it learns, what it writes, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from killed import killed_at
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.runs.run_folder import load_policy
from textrl_agents.trl.sft import SFTSettings, train_sft
from textrl_agents.trl.sft.heldout import heldout_loss
from textrl_agents.trl.sft.rows import TokenRow
from textrl_agents.trl.trainer import train_in_place
from textrl_env.errors import ConfigError, ModelError, PromptError, RewardTimeout, TextRLError, UnknownName
from textrl_env.models import CausalLMActorCritic
from textrl_env.text.prompts import PromptSet

ANSWER = " warm and good"
ROWS = [{"prompt": f"the soup number {number} was", "completion": ANSWER} for number in range(40)]
FAST = SFTSettings(epochs=8, learning_rate=1e-2, samples=2, device="cpu")


def end_probability(model: Any, tokenizer: Any, text: str) -> float:
    """Of EOS behind a prompt and its demonstrated response."""
    ids = PromptSet([text], tokenizer, max_prompt_tokens=100)[0].ids
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(np.array(ids))[None]).logits[0, -1]
    return float(logits.softmax(-1)[tokenizer.eos_token_id])


@pytest.fixture(scope="module")
def trained(make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = make_model("llama")
    before = end_probability(model, tiny_tokenizer, ROWS[0]["prompt"] + ANSWER)
    out = tmp_path_factory.mktemp("sft") / "run"
    result = train_sft(ROWS, out=out, model=model, tokenizer=tiny_tokenizer, settings=FAST, progress=False)
    return model, before, result


@pytest.mark.slow
def test_it_learns_the_response_and_where_it_ends(trained: Any, tiny_tokenizer: Any) -> None:
    _, before, result = trained
    assert tiny_tokenizer.pad_token_id == tiny_tokenizer.eos_token_id
    assert len(result.heldout.rows) == 4  # a tenth of 40 prompts
    assert result.loss_after < 0.5 * result.loss_before
    model = load_policy(result.folder, device="cpu").model
    assert before < 0.1
    assert end_probability(model, tiny_tokenizer, ROWS[0]["prompt"] + ANSWER) > 0.5


@pytest.mark.slow
def test_plain_transformers_loads_the_folder_with_equal_logits(trained: Any) -> None:
    model, _, result = trained
    plain = AutoModelForCausalLM.from_pretrained(result.policy).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(ids).logits)
    assert "supervised fine-tuning has trained" in " ".join((result.policy / "README.md").read_text().split())


@pytest.mark.slow
def test_the_folder_tells_what_happened(trained: Any) -> None:
    _, _, result = trained
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["heldout/loss"] for line in lines if "heldout/loss" in line]
    assert (losses[0], losses[-1]) == (result.loss_before, result.loss_after)
    assert lines[-1]["time/total_timesteps"] == result.tokens == FAST.epochs * result.train.tokens
    assert (result.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (result.folder / "samples.md").read_text()
    assert page.count(ANSWER) >= 2
    assert len(result.samples) == 2


@pytest.mark.slow
def test_a_seed_decides_every_weight(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path, trained: Any
) -> None:
    first, _, result = trained
    again = make_model("llama")
    train_sft(ROWS, out=tmp_path / "run", model=again, tokenizer=tiny_tokenizer, settings=FAST, progress=False)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.parameters(), again.parameters(), strict=True))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (result.folder / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_lora_is_merged_into_a_folder_that_stands_alone(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    settings = SFTSettings(epochs=2, learning_rate=1e-2, samples=0, lora={"r": 4}, device="cpu")
    result = train_sft(
        ROWS, out=tmp_path / "run", model=make_model("llama"), tokenizer=tiny_tokenizer, settings=settings,
        progress=False,
    )  # fmt: skip
    assert result.loss_after is not None
    assert result.loss_before is not None
    assert result.loss_after < result.loss_before
    plain, start = AutoModelForCausalLM.from_pretrained(result.policy), make_model("llama")
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in start.named_parameters()]
    assert any(
        not torch.equal(ours, theirs) for ours, theirs in zip(plain.parameters(), start.parameters(), strict=True)
    )


@pytest.mark.slow
def test_a_policy_whose_file_was_changed_is_refused(trained: Any, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(trained[2].folder, tmp_path / "copy"))
    weights = copied / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_policy(copied)


def test_bad_input_leaves_no_folder(tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    with pytest.raises(PromptError, match="line 2 is no JSON"):
        train_sft(data, out=out)
    ran = CliRunner().invoke(app, ["sft", str(data), "--out", str(out)])
    assert ran.exit_code == 2
    assert "line 2 is no JSON" in ran.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"fooo": 1}, "unknown setting of sft 'fooo'"),
        ({"weight_decay": "abc"}, "weight_decay of sft must be a number, got 'abc'"),
        ({"adam_beta1": 7}, "Invalid beta parameter"),
    ],
)
def test_arguments_that_the_trainer_refuses_leave_no_folder(given: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        train_sft(ROWS, out=tmp_path / "run", settings=SFTSettings(trl=given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "raised", "seen"),
    [
        ("steps", OSError("disk"), TextRLError),
        ("no", OSError("disk"), OSError),  # nothing of ours was written
        ("steps", RewardTimeout("late"), RewardTimeout),  # an OSError too, and no file's
        ("steps", RuntimeError("shapes differ"), RuntimeError),
    ],
)
def test_errors_of_a_trainer_keep_their_kind(
    strategy: str, raised: Exception, seen: type[Exception], make_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    class Fails:
        args = SimpleNamespace(save_strategy=strategy, output_dir="checkpoints")

        def train(self, resume_from_checkpoint: Any) -> None:
            raise raised

    policy = CausalLMActorCritic(make_model("llama"), tiny_tokenizer, max_length=32)
    with pytest.raises(seen) as caught:
        train_in_place(Fails(), policy)
    assert type(caught.value) is seen


def test_a_folder_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        train_sft(ROWS, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"epochs": 0}, ConfigError, "epochs must be"),
        ({"batch_size": True}, ConfigError, "batch_size must be"),
        ({"learning_rate": float("nan")}, ConfigError, "learning_rate must be"),
        ({"warmup": 2}, ConfigError, "warmup must be"),
        ({"schedule": "cosin"}, UnknownName, "Did you mean 'cosine'"),
        ({"overflow": "cut"}, UnknownName, "overflow"),
        ({"heldout_share": 1}, ConfigError, "would hold out every prompt"),
        ({"max_length": 1}, ConfigError, "max_length must be"),
        ({"trl": {"num_train_epochs": 2}}, ConfigError, "num_train_epochs is called 'epochs' here"),
        ({"trl": {"gradient_accumulation_steps": "x"}}, ConfigError, "gradient_accumulation_steps must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        SFTSettings(**settings)


def test_held_out_prompts_that_are_trained_on_are_refused_where_there_are_no_others(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    same = [{"prompt": " The SOUP number 3 was", "completion": " cold"}]
    with pytest.raises(ConfigError, match="all 1 held-out demonstrations answer prompts that are trained on"):
        train_sft(ROWS, out=tmp_path / "run", heldout=same, model=make_model("llama"), tokenizer=tiny_tokenizer)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_held_out_file_loses_the_prompts_that_are_trained_on(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    heldout = [
        {"prompt": " The SOUP number 3 was", "completion": " cold"},
        {"prompt": "the bread was", "completion": " cold"},
    ]
    settings = SFTSettings(epochs=1, samples=0, device="cpu")
    result = train_sft(
        ROWS[:4], out=tmp_path / "run", heldout=heldout, model=make_model("llama"), tokenizer=tiny_tokenizer,
        settings=settings, progress=False,
    )  # fmt: skip
    assert (len(result.train.rows), len(result.heldout.rows), result.shared) == (4, 1, 1)


@pytest.mark.slow
def test_no_prompt_is_on_both_sides(make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Each prompt comes twice; were they split by row, some would stand on both sides."""
    twice = [{"prompt": row["prompt"], "completion": end} for row in ROWS for end in (" a", " b")]
    settings = SFTSettings(epochs=1, samples=0, heldout_share=2, device="cpu")
    result = train_sft(
        twice, out=tmp_path / "run", model=make_model("llama"), tokenizer=tiny_tokenizer, settings=settings,
        progress=False,
    )  # fmt: skip
    sides = [
        {tuple(token for token, label in zip(*row, strict=True) if label == -100) for row in part.rows}
        for part in (result.train, result.heldout)
    ]
    assert [len(side) for side in sides] == [20, 20]
    assert not sides[0] & sides[1]


def test_the_held_out_loss_is_the_mean_over_all_tokens(make_model: Callable[..., Any]) -> None:
    """Whatever the batches are: responses of 1 and of 9 tokens, against each row alone."""
    model = make_model("llama")
    model.train()
    rows = [TokenRow([1, 2, 3, 4], [-100, -100, -100, 4])]
    rows += [TokenRow([5, *range(6, 15)], [-100, *range(6, 15)]), TokenRow([1, 2, 9, 4, 9], [-100, -100, 9, -100, 9])]
    model.eval()
    costs, right = [], []
    for row in rows:
        with torch.no_grad():
            log_probs = model(torch.tensor([row.input_ids])).logits[0].double().log_softmax(-1)
        for place, label in enumerate(row.labels[1:]):
            if label != -100:
                costs.append(-float(log_probs[place, label]))
                right.append(int(log_probs[place].argmax()) == label)
    model.train()
    assert len(costs) == 12
    for batch_size in (1, 2, 3):
        found = heldout_loss(model, rows, batch_size=batch_size)
        assert found is not None
        assert found.loss == pytest.approx(np.mean(costs), abs=1e-5)
        assert found.accuracy == pytest.approx(np.mean(right))
    assert model.training
    assert heldout_loss(model, [], batch_size=2) is None


SHORT = SFTSettings(epochs=2, batch_size=8, samples=0, checkpoints=3, device="cpu", learning_rate=1e-2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "policy" / "model.safetensors")


MOMENTS = (
    r"os.mkdir .*checkpoint-4$",
    r"os.rename .*latest",
    r"open .*checkpoint-8/trainer_state",
    r"os.rmdir .*checkpoint-4",
    r"os.rename .*policy",
)


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "moments"), [(None, MOMENTS), ({"r": 2}, MOMENTS[2:3])])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path, lora: Any, moments: tuple[str, ...]
) -> None:
    """Killed before the first checkpoint, inside one, before one is noted, and while the policy is written."""
    settings = dataclasses.replace(SHORT, lora=lora)

    def train(out: Path, *, resume: bool = False) -> Any:
        model = make_model("llama")
        return train_sft(
            ROWS, out=out, model=model, tokenizer=tiny_tokenizer, settings=settings, progress=False, resume=resume
        )

    whole = train(tmp_path / "whole")
    expected, lines = weights(tmp_path / "whole"), (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert not (tmp_path / "whole" / "checkpoints").exists()
    for number, moment in enumerate(moments):
        out = tmp_path / f"killed{number}"
        assert killed_at(moment, out, lambda out=out: train(out)), moment
        resumed = train(out, resume=True)
        assert resumed.finished
        found = weights(out)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), moment
        assert (out / "metrics.jsonl").read_text() == lines, moment
        assert (resumed.loss_before, resumed.loss_after) == (whole.loss_before, whole.loss_after)
        assert not (out / "checkpoints").exists()
        with pytest.raises(ConfigError, match="is complete, or has no checkpoints"):
            train(out, resume=True)


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_was_begun_with(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def train(rows: Any = ROWS, **changes: Any) -> Any:
        return train_sft(
            rows, out=out, model=make_model("llama"), tokenizer=tiny_tokenizer, progress=False, resume=True,
            settings=dataclasses.replace(SHORT, **changes),
        )  # fmt: skip

    assert killed_at(r"open .*checkpoint-8/trainer_state", out, train)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*.json"))}
    for change, named in ({"epochs": 3}, "epochs"), ({"learning_rate": 0.5, "seed": 1}, "learning_rate, seed"):
        with pytest.raises(ConfigError, match=f"was begun with other .*{named}; go on with what it had"):
            train(**change)
    with pytest.raises(ConfigError, match="begun with other demonstrations, held-out demonstrations;"):
        train([{**row, "completion": " cold"} for row in ROWS])
    assert {path: path.read_bytes() for path in before} == before
    latest = out / "checkpoints" / "latest.json"
    kept = latest.read_text()
    latest.write_text("{")
    with pytest.raises(ModelError, match=r"latest\.json cannot be read"):
        train()
    latest.write_text(kept)
    model = out / "checkpoints" / "checkpoint-4" / "model.safetensors"
    saved = model.read_bytes()
    model.write_bytes(saved[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: .*; start anew with another --out"):
        train()
    assert (out / "checkpoints" / "checkpoint-8").is_dir(), "nothing was removed"
    model.write_bytes(saved)
    model.parent.rename(out / "elsewhere")
    with pytest.raises(ModelError, match=r"checkpoint-4 has no manifest\.json.*; start anew with another --out"):
        train()
    (out / "elsewhere").rename(model.parent)
    assert train(samples=1, checkpoints=1).finished


def test_a_folder_with_nothing_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match=r"holds no fine-tuning to go on with, but mine\.txt; choose another --out"):
        train_sft(ROWS, out=tmp_path / "other", resume=True)
    with pytest.raises(ConfigError, match="is a file"):
        train_sft(ROWS, out=tmp_path / "other" / "mine.txt", resume=True)


@pytest.mark.slow
def test_ctrl_c_saves_what_is_trained(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from textrl_agents.trl.sft import log as sft_log\n"
        "from textrl_agents.trl.sft import SFTSettings, train_sft\n"
        "class Interrupting(sft_log.SFTLog):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 2: os.kill(os.getpid(), signal.SIGINT)\n"
        "        super().on_step_end(args, state, control, **kwargs)\n"
        "from textrl_agents.trl.sft import train as sft\n"
        "sft.SFTLog = Interrupting\n"
        "rows = [{'prompt': f'The soup number {n} was', 'completion': ' good.'} for n in range(64)]\n"
        "result = train_sft(rows, out=sys.argv[1], settings=SFTSettings(epochs=50, samples=0, device='cpu'))\n"
        "print(result.finished, result.tokens)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    finished, tokens = ran.stdout.split()
    assert finished == "False"
    assert 0 < int(tokens) < 2000
    assert load_policy(tmp_path / "run", device="cpu") is not None
    assert (tmp_path / "run" / "checkpoints" / "latest.json").is_file(), "so that it can go on"
