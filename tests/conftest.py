"""Fixtures of the whole suite: one thread, no stray log folders, and models small enough to run in microseconds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tokenizer import tiny_tokenizer as make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from textrl_env.models import CausalLMActorCritic
from textrl_env.models.decoding.engine import Request, Response
from textrl_env.models.decoding.paged_engine import PagedEngine
from textrl_env.tasks import Task

SIZE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZE, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}
# Ten times the usual initial weights, so that next-token distributions are far from uniform and a wrong position, mask
# or cached key shows in every log-probability.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 320,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": 0.2,
    },
    "llama": {**GROUPED, "initializer_range": 0.2},
    "mistral": {**GROUPED, "initializer_range": 0.2, "sliding_window": None},
    "qwen2": {**GROUPED, "initializer_range": 0.2},
    "qwen3": {**GROUPED, "initializer_range": 0.2, "head_dim": 16},
    "gemma2": {**GROUPED, "initializer_range": 0.2, "head_dim": 16, "sliding_window": 128},
}
PROMPTS = ["the soup at the old hotel", "the room", "hello", "good and bad, not warm; the hotel was"]

MakeModel = Callable[..., Any]


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses Ray is marked `ray`, and what is marked `ray` is `slow`."""
    for item in items:
        if item.get_closest_marker("ray") or "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
            item.add_marker("slow")


def quick(kept: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Cases for `parametrize`; those that are not kept are slow."""
    kept = list(kept)
    return [
        case if case in kept else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


@pytest.fixture(scope="session", autouse=True)
def _quiet_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One thread each (the suite shares its cores), and SB3's default log folders where pytest cleans up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small Ray for the tests that need one."""
    from textrl_agents.rllib.ray_session import ray_session

    with ray_session(num_cpus=2, object_store_memory=80 * 2**20):
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Byte-level BPE of 320 tokens, eos = pad; adds BOS."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """`make_model(family, seed=0, **config)`: a small random causal LM over the tiny tokenizer's ids."""

    def make(family: str = "llama", seed: int = 0, **overrides: Any) -> Any:
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = AutoConfig.for_model(family, **{**FAMILIES.get(family, {}), **ids, **overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config).eval()

    return make


@pytest.fixture(scope="session")
def vowels() -> Callable[..., list[float]]:
    """A reward that any change of a response moves: the share of its bytes, weighted by place, that are vowels."""

    def vowels(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [
            sum((1 + place % 3) * (letter in "aeiou") for place, letter in enumerate(text)) / 4 + len(text) / 50
            for text in completions
        ]

    return vowels


@pytest.fixture
def tiny_task(make_model: MakeModel, tiny_tokenizer: Any, vowels: Any) -> Task:
    """A tiny Llama continues four prompts of different lengths by up to eight tokens."""
    return Task(
        name="tiny",
        prompts=PROMPTS,
        heldout_prompts=PROMPTS[:2],
        reward=vowels,
        model=lambda: (make_model("llama"), tiny_tokenizer),
        kl_coef=0.1,
        max_prompt_tokens=24,
        max_new_tokens=8,
    )


@pytest.fixture
def make_policy(make_model: MakeModel, tiny_tokenizer: Any) -> Callable[..., CausalLMActorCritic]:
    """`make_policy(model=None, **settings)`: an actor-critic, by default of another Llama than the tiny task's."""

    def make(model: Any = None, **settings: Any) -> CausalLMActorCritic:
        model = make_model("llama", seed=1) if model is None else model
        return CausalLMActorCritic(model, settings.pop("tokenizer", tiny_tokenizer), **{"max_length": 32, **settings})

    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Request]]:
    """What the engine that decodes ahead is asked for, call by call, but for what a new decoder tries."""
    calls: list[list[Request]] = []
    original = PagedEngine.respond

    def respond(engine: Any, requests: Sequence[Request], *, deterministic: bool) -> list[Response]:
        if engine._eos_ids:
            calls.append(list(requests))
        return original(engine, requests, deterministic=deterministic)

    monkeypatch.setattr(PagedEngine, "respond", respond)
    return calls


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk("size=1m")`: a real small file system; called again, its options change."""
    folder, mounted = tmp_path / "disk", []
    folder.mkdir()

    def mount(options: str) -> Path:
        remount = ["-o", f"remount,{options}"] if mounted else ["-o", options, "-t", "tmpfs", "tmpfs"]
        done = subprocess.run(["mount", *remount, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(True)
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no command to mount a file system")
    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # loaded tensors are maps of their files
