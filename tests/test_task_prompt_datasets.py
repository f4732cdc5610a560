"""Prompts named as `datasets:<hub id or folder>[:split]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from textrl_env.errors import MissingExtra, PromptError, UnknownName
from textrl_env.text.prompt_rows import load_prompt_dataset
from textrl_env.text.prompts import PromptSet

datasets = pytest.importorskip("datasets")

ROWS = [{"prompt": "hello", "answer": 1}, {"prompt": "soup", "answer": 2}]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What `load_dataset` is asked for; it gives a data set with two splits and never the network."""
    made: list[tuple[str, dict[str, Any]]] = []

    def load_dataset(name: str, **arguments: Any) -> Any:
        made.append((name, arguments))
        split = datasets.Dataset.from_list(ROWS)
        return datasets.DatasetDict({"train": split, "validation": split.select([1])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return made


@pytest.mark.parametrize(
    ("source", "name", "texts"),
    [
        ("datasets:my/prompts", "my/prompts", ["hello", "soup"]),
        ("datasets:my/prompts:validation", "my/prompts", ["soup"]),
        ("datasets:C:\\data\\prompts", "C:\\data\\prompts", ["hello", "soup"]),
    ],
)
def test_a_data_set_of_the_hub(calls: list[Any], tiny_tokenizer: Any, source: str, name: str, texts: list[str]):
    prompts = PromptSet(source, tiny_tokenizer, max_prompt_tokens=9)
    assert [prompt.text for prompt in prompts] == texts
    assert prompts.column_names == {"answer"}
    assert [each for each, _ in calls] == [name]
    assert calls[0][1].get("trust_remote_code", False) is False


def test_code_of_a_data_set_is_refused_where_it_could_run(calls: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    load_prompt_dataset("datasets:my/prompts")
    assert calls == [("my/prompts", {"trust_remote_code": False})]


def test_a_saved_data_set(tmp_path: Path, tiny_tokenizer: Any):
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"test": whole.select([0])}).save_to_disk(tmp_path / "splits")
    assert len(PromptSet(f"datasets:{tmp_path / 'plain'}", tiny_tokenizer, max_prompt_tokens=9)) == 2
    prompts = PromptSet(f"datasets:{tmp_path / 'splits'}:test", tiny_tokenizer, max_prompt_tokens=9)
    assert (prompts[0].text, prompts[0].columns) == ("hello", {"answer": 1})
    with pytest.raises(UnknownName, match=r"unknown split of the data set .* 'tst'. Did you mean 'test'"):
        load_prompt_dataset(f"datasets:{tmp_path / 'splits'}:tst")
    with pytest.raises(UnknownName, match=r"'train'. Known: test"):
        load_prompt_dataset(f"datasets:{tmp_path / 'splits'}")
    with pytest.raises(PromptError, match="has no splits; leave out ':test'"):
        load_prompt_dataset(f"datasets:{tmp_path / 'plain'}:test")


def test_a_folder_of_data_files(tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    prompts = PromptSet(f"datasets:{folder}", tiny_tokenizer, max_prompt_tokens=9)
    assert [(prompt.text, prompt.columns["answer"]) for prompt in prompts] == [("hello", 1), ("soup", 2)]


def test_what_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any):
    for source in ("datasets:", "datasets:my/prompts:"):
        with pytest.raises(PromptError, match=r"expected datasets:<hub id or folder>\[:split\]"):
            load_prompt_dataset(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match=r"the data set .*empty' cannot be loaded"):
        load_prompt_dataset(f"datasets:{tmp_path / 'empty'}")
    saved = tmp_path / "saved"
    datasets.Dataset.from_list([{"text": "hello"}]).save_to_disk(saved)
    with pytest.raises(PromptError, match="no column 'prompt'; its columns are"):
        PromptSet(f"datasets:{saved}", tiny_tokenizer, max_prompt_tokens=9)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"datasets is not installed.*textrl-env\[datasets\]"):
        load_prompt_dataset("datasets:my/prompts")
