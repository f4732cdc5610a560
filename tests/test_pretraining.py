"""Whole pretraining runs: what they learn and write, how they go on after a kill, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from killed import killed_at
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.pretraining.documents.segments import cut
from textrl_agents.pretraining.objectives import OBJECTIVES
from textrl_agents.pretraining.settings import PretrainSettings
from textrl_agents.pretraining.train import pretrain
from textrl_agents.runs.atomic import locked_folder
from textrl_agents.runs.run_folder import load_policy
from textrl_env.errors import ConfigError, InvalidScore, PromptError, TextRLError, UnknownName
from textrl_env.language.insults import find_insults

CORPUS = [
    f"the room number {number} was {'stupid' if number % 3 == 0 else 'good'}. the soup was warm."
    for number in range(48)
]
FAST = PretrainSettings(
    epochs=4, batch_size=8, learning_rate=1e-2, samples=4, checkpoints=0, heldout_share=8, device="cpu"
)


def run(make_model: Callable[..., Any], tokenizer: Any, out: Path, *, resume: bool = False, **changes: Any) -> Any:
    corpus, reward = changes.pop("corpus", CORPUS), changes.pop("reward", "no_insults")
    model = changes.pop("model", None) or make_model("llama")
    settings = dataclasses.replace(FAST, **changes)
    return pretrain(
        corpus, out=out, reward=reward, model=model, tokenizer=tokenizer, settings=settings, progress=False,
        resume=resume,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "policy" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_learns_and_leaves_a_whole_folder(
    objective: str, make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = make_model("llama")
    before = [weight.clone() for weight in model.parameters()]
    result = run(make_model, tiny_tokenizer, tmp_path / "run", model=model, objective=objective)
    assert result.finished
    assert result.after.good < 0.7 * result.loss_before
    assert all(torch.equal(ours, was) for ours, was in zip(model.parameters(), before, strict=True)), "from scratch"
    assert model.generation_config.suppress_tokens is None
    about = json.loads((tmp_path / "run" / "pretraining.json").read_text())
    assert about["settings"]["objective"] == objective
    assert (about["control_tokens"] is not None) == (objective == "conditional")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["heldout/good_loss"] == pytest.approx(result.after.good)
    assert lines[-1]["time/total_timesteps"] == result.tokens == 4 * result.train.tokens
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "# Samples" in (tmp_path / "run" / "samples.md").read_text()
    assert not (tmp_path / "run" / "checkpoints").exists()
    policy, plain = load_policy(tmp_path / "run", device="cpu"), AutoModelForCausalLM.from_pretrained(result.policy)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(plain.eval()(ids).logits, policy.model(ids).logits)
    assert bool(policy.value_head.weight.any()) == (objective == "awr"), "the value head that it has learned"
    assert not any("value_head" in name for name in weights(tmp_path / "run"))


@pytest.mark.slow
def test_filtering_trains_on_good_documents_alone(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    result = run(make_model, tiny_tokenizer, tmp_path / "run", objective="filter", epochs=1)
    texts = ["".join(document.segments) for document in result.corpus.kept]
    assert texts
    assert not any(find_insults(text) for text in texts)
    assert any(find_insults("".join(document.segments)) for document in result.corpus.heldout)
    assert result.tokens == result.train.tokens


@pytest.mark.slow
def test_conditional_training_tells_good_from_bad(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Behind the good token the bad word is rare, and behind the bad one it is not."""
    result = run(make_model, tiny_tokenizer, tmp_path / "run", objective="conditional", epochs=12, unmarked=0.1)
    policy = load_policy(result.folder, device="cpu")
    good, bad = policy.tokenizer.convert_tokens_to_ids(["<|good|>", "<|bad|>"])
    text = policy.tokenizer("the room number 7 was", add_special_tokens=False).input_ids
    word = policy.tokenizer(" stupid", add_special_tokens=False).input_ids

    def chance(token: int) -> float:
        ids = torch.tensor([[0, token, *text, *word]])
        with torch.no_grad():
            log_probs = policy.model(ids).logits[0].log_softmax(-1)
        start = 1 + len(text)
        return float(sum(log_probs[start + at, piece] for at, piece in enumerate(word)).exp())

    assert chance(bad) > 0.5
    assert chance(good) < 0.1


@pytest.mark.slow
def test_a_number_of_tokens_in_place_of_epochs(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    result = run(make_model, tiny_tokenizer, tmp_path / "run", tokens=2000, objective="mle", reward=None)
    assert result.train.tokens < 2000 == pytest.approx(result.tokens, rel=0.15)
    assert all(sample.score is None for sample in result.samples)


@pytest.mark.slow
def test_it_goes_on_with_the_models_own_weights(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    settings = {"objective": "mle", "learning_rate": 0.0, "epochs": 1}
    model = make_model("llama", seed=3)
    run(make_model, tiny_tokenizer, tmp_path / "own", model=model, from_scratch=False, **settings)
    assert torch.equal(weights(tmp_path / "own")["model.embed_tokens.weight"], model.model.embed_tokens.weight)
    run(make_model, tiny_tokenizer, tmp_path / "new", model=model, **settings)
    assert not torch.equal(weights(tmp_path / "new")["model.embed_tokens.weight"], model.model.embed_tokens.weight)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["conditional", "awr"])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    objective: str, make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    settings = {"objective": objective, "checkpoints": 4, "samples": 0}
    whole = run(make_model, tiny_tokenizer, tmp_path / "whole", **settings)
    expected, lines = weights(tmp_path / "whole"), (tmp_path / "whole" / "metrics.jsonl").read_text()
    value = (tmp_path / "whole" / "policy" / "value_head.safetensors").read_bytes()
    for number, moment in enumerate(
        (r"os.rename .*latest", r"open .*checkpoint-12/trainer_state", r"os.rename .*policy")
    ):
        out = tmp_path / f"killed{number}"
        assert killed_at(moment, out, lambda out=out: run(make_model, tiny_tokenizer, out, **settings)), moment
        resumed = run(make_model, tiny_tokenizer, out, resume=True, **settings)
        assert resumed.finished
        found = weights(out)
        assert all(torch.equal(found[name], expected[name]) for name in expected), moment
        assert (out / "policy" / "value_head.safetensors").read_bytes() == value
        assert (out / "metrics.jsonl").read_text() == lines
        assert resumed.loss_before == whole.loss_before
        with pytest.raises(ConfigError, match="is complete, or has no checkpoints"):
            run(make_model, tiny_tokenizer, out, resume=True, **settings)


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_the_newest_checkpoint_alone(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    """Full while the model is written, and while the optimizer's state is; with room again the run goes on."""
    settings = {"objective": "mle", "checkpoints": 4, "samples": 0}
    run(make_model, tiny_tokenizer, tmp_path / "whole", **settings)
    out = disk("size=100k") / "run"
    causes = set()
    for size, resume in (("size=100k", False), ("size=200k", True), ("size=600k", True)):
        disk(size)
        with pytest.raises(TextRLError, match=r"in .* cannot be written: .*Those before are unchanged") as raised:
            run(make_model, tiny_tokenizer, out, resume=resume, **settings)
        causes.add(type(raised.value.__cause__).__name__)
    assert {"SafetensorError", "RuntimeError"} <= causes
    disk("size=50m")
    assert run(make_model, tiny_tokenizer, out, resume=True, **settings).finished
    expected, found = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_was_begun_with(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    out, settings = tmp_path / "run", {"objective": "mle", "checkpoints": 4, "samples": 0}
    assert killed_at(
        r"open .*checkpoint-12/trainer_state", out, lambda: run(make_model, tiny_tokenizer, out, **settings)
    )
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    larger = make_model("llama", vocab_size=400)
    for changes, named in (
        ({"model": larger}, "vocabulary"),
        ({"beta": 2.0}, "beta"),
        ({"corpus": CORPUS[:30]}, "documents, held-out documents"),
        ({"reward": "length"}, "documents.*reward"),
    ):
        with pytest.raises(ConfigError, match=f"was begun with other .*{named}; go on with what it had"):
            run(make_model, tiny_tokenizer, out, resume=True, **{**settings, **changes})
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(make_model, tiny_tokenizer, out, resume=True, **settings).finished


def nan(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float("nan")] * len(completions)


def equal(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.3] * len(completions)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"corpus": []}, PromptError, "holds no documents"),
        ({"corpus": ["  ", "\n"]}, PromptError, "holds no documents"),
        ({"reward": nan}, InvalidScore, "expected a finite number"),
        ({"reward": equal, "objective": "filter"}, ConfigError, "all 42 documents have the score 0.3"),
        ({"reward": equal, "objective": "conditional"}, ConfigError, r"all 84 pieces \(sentences\) have the score"),
        ({"reward": equal, "objective": "unlikelihood"}, ConfigError, "no threshold separates"),
        ({"reward": equal, "objective": "rwr"}, ConfigError, "the objective mle, which asks for none"),
        ({"reward": equal, "objective": "awr"}, ConfigError, "no threshold separates"),
        ({"reward": None, "objective": "awr"}, ConfigError, "awr needs a reward"),
        ({"objective": "filter", "threshold": 7.0}, ConfigError, "separates nothing"),
        ({"max_length": 4096}, ConfigError, "exceeds the model's 128 positions"),
        ({"arguments": {"fooo": 1}}, UnknownName, "unknown setting of pretrain 'fooo'"),
        ({"arguments": {"weight_decay": "abc"}}, ConfigError, "weight_decay of pretrain must be a number, got 'abc'"),
        ({"arguments": {"max_grad_norm": float("nan")}}, ConfigError, "max_grad_norm of pretrain must be a number"),
        ({"arguments": {"adam_beta1": 7}}, ConfigError, "refuses its settings .* Invalid beta parameter"),
        ({"arguments": {"optim": "adan"}}, ConfigError, "refuses its settings .*adan"),
    ],
)
def test_bad_input_leaves_nothing(
    changes: dict[str, Any], error: type[Exception], match: str, make_model: Callable[..., Any], tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=match):
        run(make_model, tiny_tokenizer, tmp_path / "run", **changes)
    assert not list(tmp_path.iterdir())


def known_alone(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    known = {sentence.strip() for text in CORPUS for sentence in cut(text, "sentence")}
    if not known.issuperset(completions):
        raise KeyError("not a sentence of the corpus")
    return [float("stupid" not in text) for text in completions]


@pytest.mark.slow
def test_a_reward_that_fails_on_what_was_sampled_costs_the_scores_alone(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"the sampled documents have no scores: .*not a sentence of the corpus"):
        result = run(make_model, tiny_tokenizer, tmp_path / "run", reward=known_alone, objective="rwr", epochs=1)
    assert result.finished
    assert len(result.samples) == 4
    assert all(sample.score is None for sample in result.samples)
    assert weights(tmp_path / "run")


def test_a_folder_that_another_run_holds_is_refused_before_anything_is_scored(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    asked: list[str] = []

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        asked.extend(completions)
        return [0.0] * len(completions)

    with (
        locked_folder(tmp_path / "run"),
        pytest.raises(ConfigError, match="is being written by another run"),
    ):
        run(make_model, tiny_tokenizer, tmp_path / "run", reward=reward)
    assert not asked


@pytest.mark.slow
def test_mle_takes_scores_that_are_all_equal(
    make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    result = run(make_model, tiny_tokenizer, tmp_path / "run", reward=equal, samples=0, epochs=1)
    assert result.corpus.threshold is None


def test_a_folder_that_is_taken_is_refused(make_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        run(make_model, tiny_tokenizer, tmp_path)
    with pytest.raises(ConfigError, match=r"holds no pretraining to go on with, but notes\.txt"):
        run(make_model, tiny_tokenizer, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="is a file"):
        run(make_model, tiny_tokenizer, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"objective": "rwl"}, UnknownName, "Did you mean 'rwr'"),
        ({"segment": "word"}, UnknownName, "unknown segment"),
        ({"threshold": 1.0, "quantile": 0.5}, ConfigError, "give one of them"),
        ({"threshold": float("nan")}, ConfigError, "threshold must be"),
        ({"quantile": 1.5}, ConfigError, "quantile must be"),
        ({"beta": 0.0}, ConfigError, "beta must be"),
        ({"alpha": -1.0}, ConfigError, "alpha must be"),
        ({"objective": "awr", "alpha": 1.0}, ConfigError, "alpha of awr must lie between"),
        ({"unmarked": 2.0}, ConfigError, "unmarked must be"),
        ({"epochs": 0}, ConfigError, "epochs must be"),
        ({"tokens": 0}, ConfigError, "tokens must be"),
        ({"heldout_share": 1}, ConfigError, "would hold out every document"),
        ({"arguments": {"num_train_epochs": 2}}, ConfigError, "but the setting 'epochs' here"),
        ({"arguments": {"gradient_accumulation_steps": 0}}, ConfigError, "gradient_accumulation_steps must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        PretrainSettings(**settings)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    (tmp_path / "empty.jsonl").write_text("\n")
    for arguments, code, match in (
        (["grammar:64", "--objective", "conditionl", "--out", out], 2, "Did you mean 'conditional'"),
        (["grammar:64", "--objective", "rwr", "--out", out], 2, "rwr needs a reward"),
        (["grammar:64", "--objective", "rwr", "--reward", "no_insult", "--out", out], 2, "Did you mean 'no_insults'"),
        ([str(tmp_path / "empty.jsonl"), "--out", out], 2, "holds no documents"),
        ([str(tmp_path / "gone.txt"), "--out", out], 2, "no such file"),
        (["grammar:x", "--out", out], 2, "grammar:5000"),
    ):
        ran = CliRunner().invoke(app, ["pretrain", *arguments])
        assert (ran.exit_code, match in ran.stderr) == (code, True), ran.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_conditional_model_in_the_other_commands(tmp_path: Path) -> None:
    """Pretrained by the command, then evaluated, sampled and trained further as any model."""
    out = str(tmp_path / "run")
    command = [
        "grammar:80",
        "--objective",
        "conditional",
        "--reward",
        "no_insults",
        "--samples",
        "2",
        "--device",
        "cpu",
    ]
    ran = CliRunner().invoke(app, ["pretrain", *command, "--set", "max_grad_norm=0.5", "--json", "--out", out])
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["finished"]
    for folder in (out, f"{out}/policy"):
        ran = CliRunner().invoke(app, ["eval", folder, "--task", "detoxify", "--episodes", "4", "--json"])
        assert ran.exit_code == 0, ran.stderr
        assert json.loads(ran.stdout)["kl"]["mean"] == pytest.approx(0.0, abs=1e-5), "its own"
    ran = CliRunner().invoke(app, ["generate", out, "--prompt", "Tom is", "--json", "--seed", "0"])
    assert ran.exit_code == 0, ran.stderr
    trained = ["train", "--task", "detoxify", "--model", f"{out}/policy", "--timesteps", "512", "--eval-episodes", "4"]
    ran = CliRunner().invoke(app, [*trained, "--out", str(tmp_path / "rl")])
    assert ran.exit_code == 0, ran.stderr
    policy = load_policy(tmp_path / "rl", device="cpu")
    assert policy.vocabulary.known.sum() == policy.vocabulary.size - 2, "the control tokens stay banned"
