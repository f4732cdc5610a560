"""A run's policy for the hub: what is sent, that nothing is sent unasked, and that what was sent can be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.runs import hub
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.hub import push, staged
from textrl_agents.runs.run_folder import RunFolder
from textrl_env.errors import ConfigError, ModelError, TextRLError
from textrl_env.models import CausalLMActorCritic


@pytest.fixture
def run(tmp_path: Path, make_policy: Callable[..., CausalLMActorCritic]) -> RunFolder:
    """A run that was evaluated before and after training."""
    folder = RunFolder(tmp_path / "run")
    folder.save_policy(make_policy(), 960)
    config = TrainConfig(task="exact", seed=3, out=str(folder.path), env={"max_new_tokens": 7, "prompts": ["a ``` b"]})
    folder.config.write_text(config.to_yaml())
    lines = [
        {"time/total_timesteps": 0, "eval_heldout/score": 0.25, "eval_heldout/score_ci95": 0.1, "eval_heldout/kl": 0.0},
        {"time/total_timesteps": 480, "eval_validation/score": 9.0},
        {"time/total_timesteps": 960, "eval_heldout/score": 0.75, "eval_heldout/score_ci95": 0.2, "eval_heldout/kl": 2},
    ]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.samples.write_text("# Samples\n")
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the hub is asked for; files that it gets lie in `tmp_path / "hub"`."""
    calls: list[Any] = []

    class Hub:
        def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> Any:
            calls.append((repo, private, exist_ok))
            return SimpleNamespace(repo_id=f"me/{repo}", __str__=lambda: "address")

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            calls.append((repo_id, commit_message))
            shutil.copytree(folder_path, tmp_path / "hub")

    monkeypatch.setattr(hub, "HfApi", Hub)
    return calls


def test_what_is_sent_is_the_policy_with_its_records_and_can_be_loaded(
    run: RunFolder, sent: list[Any], tmp_path: Path, make_policy: Callable[..., CausalLMActorCritic]
):
    push(run.path, "aligned")
    assert sent == [("aligned", True, True), ("me/aligned", "A policy trained by textrl-env")]
    names = {path.relative_to(tmp_path / "hub").as_posix() for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert {"README.md", "model.safetensors", "value_head.safetensors", "actor_critic.json"} <= names
    assert {name for name in names if "/" in name} == {"training/metrics.jsonl", "training/samples.md"}
    assert "config.yaml" not in names
    loaded, made = CausalLMActorCritic.from_pretrained(tmp_path / "hub", device="cpu"), make_policy()
    for one, other in zip(loaded.parameters(), made.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_public_repository_is_asked_for(run: RunFolder, sent: list[Any]):
    push(run.path, "aligned", public=True)
    assert sent[0] == ("aligned", False, True)


def test_the_card_has_the_figures_the_settings_and_the_use(run: RunFolder):
    with staged(run.path, "me/aligned") as folder:
        card = ModelCard.load(folder / "README.md")
    assert card.data.model_name == "aligned"
    assert "textrl-env" in card.data.tags
    score, kl = card.data.eval_results
    assert (score.dataset_name, score.metric_type, score.metric_value) == ("exact, held-out prompts", "score", 0.75)
    assert (kl.metric_type, kl.metric_value) == ("kl", 2)
    for text in (
        "# aligned",
        "|  | after 0 tokens | after 960 tokens |",
        "| score | 0.250 ± 0.100 | 0.750 ± 0.200 |",
        "| KL | 0.000 | 2.000 |",
        "## Intended use",
        "max_new_tokens: 7",
        "seed: 3",
    ):
        assert text in card.text
    assert str(run.path) not in card.content
    assert card.text.count("``````") == 2  # the settings' own fence does not end them


def test_a_run_without_evaluations_has_a_card_without_figures(run: RunFolder):
    run.metrics.unlink()
    with staged(run.path, "aligned") as folder:
        card = ModelCard.load(folder / "README.md")
    assert "The run was not evaluated." in card.text
    assert card.data.eval_results is None


def test_the_staged_folder_is_gone_afterwards_and_the_run_is_as_it_was(run: RunFolder):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with staged(run.path, "aligned") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["a b", "x/y/z", "", "--flag", "a..b"])
def test_a_name_that_is_none_sends_nothing(run: RunFolder, sent: list[Any], name: str):
    with pytest.raises(ConfigError, match="is no name for a repository"):
        push(run.path, name)
    assert sent == []


def test_what_is_no_run_or_was_damaged_is_not_sent(run: RunFolder, sent: list[Any], tmp_path: Path):
    with pytest.raises(ConfigError, match="is no folder of a training run"):
        push(tmp_path, "aligned")
    with pytest.raises(ConfigError, match="is no folder of a training run"):
        push(run.policy, "aligned")
    weights = run.policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="is damaged"):
        push(run.path, "aligned")
    assert sent == []


def test_a_hub_that_refuses_is_told_in_a_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    class Refusing:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("401 Client Error\nlong story")

    monkeypatch.setattr(hub, "HfApi", Refusing)
    with pytest.raises(TextRLError, match=r"me/aligned could not be sent: 401 Client Error\. .*hf auth login"):
        push(run.path, "me/aligned")


def test_a_dry_run_shows_everything_and_sends_nothing(run: RunFolder, sent: list[Any]):
    done = CliRunner().invoke(app, ["push", str(run.path), "me/aligned", "--dry-run"])
    assert done.exit_code == 0, done.output
    for text in ("## Intended use", "would be sent to me/aligned", "model.safetensors"):
        assert text in done.stdout
    assert sent == []
