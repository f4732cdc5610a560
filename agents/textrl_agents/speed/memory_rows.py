"""The row on memory: the peak of one update with and without the chunked vocabulary projection.

Each side runs in a process of its own, `python -m textrl_agents.speed.memory_rows`: a peak can be read only once,
and an allocator that has been full keeps what it got.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.phases import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, measurement
from textrl_agents.speed.workload import word_tokenizer, zero_reward
from textrl_env.tasks import Task

VOCABULARY = 50257  # GPT-2's
PROMPT_TOKENS = 8


@measurement(Target("<=", 0.4), quick={"rows": 32})
def memory_of_an_update(bench: Bench, *, rows: int = 64, tokens: int = 64, vocabulary: int = VOCABULARY) -> Measured:
    """Compare the peaks of stock `PPO.train` on one minibatch of `rows * tokens` transitions.

    A peak is what is held above that before the update.
    """
    chunked, unchunked = (_in_child(bench.device, vocabulary, rows, tokens, chunked) for chunked in (True, False))
    detail = (
        f"{rows * tokens} tokens, vocabulary {vocabulary}: "
        f"chunked {chunked / 2**20:,.0f} MiB, unchunked {unchunked / 2**20:,.0f} MiB"
    )
    return Measured(chunked / unchunked, detail)


def _in_child(device: torch.device, vocabulary: int, rows: int, tokens: int, chunked: bool) -> int:
    arguments = ["--device", str(device), "--vocabulary", str(vocabulary), "--rows", str(rows)]
    arguments += ["--tokens", str(tokens), *(["--chunked"] if chunked else [])]
    # The child finds the packages where this process does, installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(
        [sys.executable, "-m", "textrl_agents.speed.memory_rows", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    if child.returncode != 0:
        raise MemoryError(f"the measured update failed:\n{child.stderr.strip()[-2000:]}")
    return int(json.loads(child.stdout.splitlines()[-1])["peak"])


def word_model(vocabulary: int) -> tuple[Any, Any]:
    """Make a narrow GPT-2 over `vocabulary` words, all of which its tokenizer knows, as an ordinary model's does."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_positions=256, n_embd=64, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    return GPT2LMHeadModel(config), word_tokenizer(vocabulary)


def peak_of_update(device: torch.device, *, vocabulary: int, rows: int, tokens: int, chunked: bool) -> int:
    """Return the bytes above those held before, at the peak of one update on `rows * tokens` transitions."""
    model, tokenizer = word_model(vocabulary)
    prompt = " ".join(f"w{i + 1}" for i in range(PROMPT_TOKENS))
    task = Task(
        name="memory", prompts=[prompt], reward=zero_reward, max_prompt_tokens=PROMPT_TOKENS, max_new_tokens=tokens
    )
    arguments = {"task": task, "model": model, "tokenizer": tokenizer, "device": device}
    agent = make_agent(
        "ppo", n_envs=rows, n_steps=tokens, n_epochs=1, batch_size=rows * tokens, env_kwargs=arguments, seed=0
    )
    if not chunked:
        agent.policy.actor_critic.chunk_elements = None
    phases = SB3Phases(agent)
    phases.collect()
    before = _held(device)
    phases.train()
    return _peak(device) - before


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):  # where it cannot be reset the rollout's own, lower, peak counts too
        Path("/proc/self/clear_refs").write_text("5")
    return _process_bytes("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_bytes("VmHWM")


def _process_bytes(field: str) -> int:
    """Return the resident bytes of this process, now (VmRSS) or at most since `_held` (VmHWM)."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: Linux hands its peak down from the parent process through exec.
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Measure one side and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m textrl_agents.speed.memory_rows", description=__doc__)
    parser.add_argument("--device", default="cpu", help="where the update runs")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="size of the vocabulary")
    parser.add_argument("--rows", type=int, default=64, help="episodes in the minibatch")
    parser.add_argument("--tokens", type=int, default=64, help="response tokens of each")
    parser.add_argument("--chunked", action="store_true", help="project in chunks, as the policy does by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    peak = peak_of_update(
        device, vocabulary=options.vocabulary, rows=options.rows, tokens=options.tokens, chunked=options.chunked
    )
    print(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main()
