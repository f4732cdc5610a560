"""Checkpoints: exact resume, whole or not at all, and broken files named."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick

from textrl_agents.runs import atomic
from textrl_agents.runs.checkpoint_files import load_state, save_state
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.callbacks import Checkpoints
from textrl_agents.sb3.checkpoint import capture, load_checkpoint, save_checkpoint
from textrl_agents.training.random_state import random_state, set_random_state
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, ModelError, TextRLError
from textrl_env.models.storage.manifest import MANIFEST, verify, write_manifest
from textrl_env.tasks import Task

N_ENVS, N_STEPS = 8, 7  # rollouts that cut episodes: rows are in flight at every boundary
LENGTH = 6 * N_ENVS * N_STEPS
ADAPTIVE = {"value": 0.4, "target": 0.5, "horizon": 20}
CASES: dict[str, dict[str, Any]] = {
    "ppo": {},
    "a2c": {"algo": "a2c"},
    "separate value trunk": {"policy_kwargs": {"value_trunk": "separate"}},
    "stepwise KL": {"env_kwargs": {"kl_mode": "log_ratio"}},
    "LoRA": {"lora": {"r": 2}, "learning_rate": 1e-2},
    # Responses, and groups of them, that wait over the boundary.
    "reinforce": {"algo": "reinforce"},
    "grpo": {"algo": "grpo", "group_size": 3},
    "nlpo": {"algo": "nlpo", "mask_every": 2},
    "trpo": {"algo": "trpo"},
    # What is decoded ahead of a boundary is no part of the checkpoint: new weights forget it.
    "decoded ahead": {"policy_kwargs": {"decoder": "ahead"}},
}


def new_agent(algo: str = "ppo", seed: int = 0, **options: Any) -> Any:
    env_kwargs = {"task": "exact", "kl_coef": ADAPTIVE, **options.pop("env_kwargs", {})}
    return make_agent(algo, n_envs=N_ENVS, n_steps=N_STEPS, seed=seed, env_kwargs=env_kwargs, **options)


def learn(agent: Any, folder: Path) -> None:
    """To the end of the run, with checkpoints at its middle and its end."""
    started = agent.num_timesteps > 0
    callback = Checkpoints(RunFolder(folder), every=LENGTH // 2, keep=9)
    agent.learn(LENGTH - agent.num_timesteps, callback=callback, reset_num_timesteps=not started)


def files(folder: Path) -> dict[str, Any]:
    """SHA-256 of every file: weights, optimizer, random states, rows in flight, coefficient, counters, records."""
    return json.loads((folder / MANIFEST).read_text())


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    learn(new_agent(), folder)
    return folder


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft calls it
@pytest.mark.parametrize("case", quick(["ppo", "grpo"], CASES))
def test_resume_is_exact(case: str, tmp_path: Path) -> None:
    """CHECKS 32. The resumed agent has another seed: everything that matters must come from the checkpoint."""
    agent = new_agent(**CASES[case])
    learn(agent, tmp_path / "full")
    other = new_agent(**CASES[case], seed=1)
    load_checkpoint(other, tmp_path / "full" / f"checkpoint-{LENGTH // 2}")
    learn(other, tmp_path / "resumed")
    middle, end = (files(tmp_path / "full" / f"checkpoint-{tokens}") for tokens in (LENGTH // 2, LENGTH))
    assert end == files(tmp_path / "resumed" / f"checkpoint-{LENGTH}")
    changed = {"policy/model.safetensors", "optimizer.safetensors", "state.json", "state.safetensors"}
    assert all(middle[name] != end[name] for name in changed)  # or equal files would say nothing
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, other.policy.state_dict()[name]), name
    if "lora" not in CASES[case]:
        assert agent.env.env.kl_penalty.coef == other.env.env.kl_penalty.coef != ADAPTIVE["value"]


@pytest.mark.slow
def test_resume_in_a_new_process_is_exact(full_run: Path, tmp_path: Path) -> None:
    """CHECKS 32."""
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "sys.path.insert(0, sys.argv[1]); import test_checkpoint as here\n"
        "agent = here.new_agent(seed=1); here.load_checkpoint(agent, sys.argv[2])\n"
        "here.learn(agent, Path(sys.argv[3]))\n"
    )
    middle = full_run / f"checkpoint-{LENGTH // 2}"
    arguments = [str(Path(__file__).parent), str(middle), str(tmp_path)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    assert files(tmp_path / f"checkpoint-{LENGTH}") == files(full_run / f"checkpoint-{LENGTH}")


def test_saving_does_not_disturb_training(full_run: Path) -> None:
    agent = new_agent().learn(LENGTH)
    saved = new_agent(seed=1)
    load_checkpoint(saved, full_run / f"checkpoint-{LENGTH}")
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, saved.policy.state_dict()[name]), name


def test_a_run_stopped_within_a_rollout_saves_the_boundary_before(full_run: Path, tmp_path: Path) -> None:
    """CHECKS 39: what was sampled since is lost, and sampled again just the same."""
    agent, checkpoints = new_agent(), Checkpoints(RunFolder(tmp_path))
    half, stop = LENGTH // 2, LENGTH // 2 + 3 * N_ENVS

    class StopInRollout(Checkpoints):
        def _on_step(self) -> bool:
            return self.num_timesteps < stop

    checkpoints = StopInRollout(RunFolder(tmp_path))
    agent.learn(LENGTH, callback=checkpoints)
    assert agent.num_timesteps == stop
    assert checkpoints.in_rollout
    assert files(tmp_path / f"checkpoint-{half}") == files(full_run / f"checkpoint-{half}")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    run, step = RunFolder(tmp_path), N_ENVS * N_STEPS
    new_agent().learn(5 * step, callback=Checkpoints(run, every=step, keep=2))
    assert [tokens for tokens, _ in run.checkpoints()] == [4 * step, 5 * step]


def test_there_is_no_pickle(full_run: Path) -> None:
    """CHECKS 36."""
    names = files(full_run / f"checkpoint-{LENGTH}")
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".jinja", ".txt", ".md"}


def test_every_broken_file_is_named(full_run: Path, tmp_path: Path) -> None:
    """CHECKS 35: truncated, one bit flipped, missing; and the manifest itself."""
    source = full_run / f"checkpoint-{LENGTH}"
    agent = new_agent()
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    for name in [*files(source), MANIFEST]:
        copy = tmp_path / "copy"
        for damage in ("truncated", "flipped", "missing"):
            subprocess.run(["cp", "-r", str(source), str(copy)], check=True)
            data = bytearray((copy / name).read_bytes())
            if damage == "truncated":
                (copy / name).write_bytes(data[: len(data) // 2])
            elif damage == "flipped":
                data[len(data) // 2] ^= 1
                (copy / name).write_bytes(data)
            else:
                (copy / name).unlink()
            # A manifest that is JSON still may accuse any file.
            blamed = r"copy/\S+ " if name == MANIFEST else re.escape(f"copy/{name} ")
            with pytest.raises(ModelError, match=blamed + r"|copy has no manifest\.json"):
                load_checkpoint(agent, copy)
            subprocess.run(["rm", "-r", str(copy)], check=True)
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "state",
    ["[]", "{}", "null", '{"made_with": 3}', "SAME-BUT env", "SAME-BUT counters", "SAME-BUT random", "[" * 100_000],
)
def test_a_state_of_another_shape_is_refused(state: str, full_run: Path, tmp_path: Path) -> None:
    """A checkpoint whose list of files agrees with them, from another version or another hand."""
    copy = tmp_path / "copy"
    shutil.copytree(full_run / f"checkpoint-{LENGTH}", copy)
    if state.startswith("SAME-BUT"):
        whole = json.loads((copy / "state.json").read_text())
        state = json.dumps({**whole, state.split()[1]: {"torch": 1, "python": [1]}})
    (copy / "state.json").write_text(state)
    write_manifest(copy)
    with pytest.raises(
        ModelError, match=r"copy does not hold the state of this kind of run|state\.json cannot be read"
    ):
        load_checkpoint(new_agent(), copy)


def test_another_agent_is_refused(full_run: Path) -> None:
    agent = make_agent("ppo", n_envs=4, n_steps=N_STEPS, env_kwargs={"task": "exact"})
    with pytest.raises(ConfigError, match=r"saved by another agent, with {'n_envs': 8}; this one has {'n_envs': 4}"):
        load_checkpoint(agent, full_run / f"checkpoint-{LENGTH}")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no manifest\.json: it is not a checkpoint"):
        load_checkpoint(new_agent(), tmp_path)


@pytest.mark.slow
def test_kill_at_random_moments_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """CHECKS 33: a process that saves over and over is killed; the previous or the new checkpoint loads each time."""
    agent = new_agent()
    folder = tmp_path / "checkpoint-1"
    save_checkpoint(agent, folder)
    moments = random.Random(0)
    seen = set()
    for _ in range(12):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                while True:
                    agent.num_timesteps += 1
                    save_checkpoint(agent, folder)
                    os.write(writer, b".")
            finally:
                os._exit(1)
        os.close(writer)
        started = time.perf_counter()
        os.read(reader, 1)  # however busy the machine is, the child has saved once
        time.sleep((time.perf_counter() - started) * 2 * moments.random())
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.waitpid(child, 0)
        load_checkpoint(agent, folder)
        seen.add(agent.num_timesteps)
    assert len(seen) > 1


def test_an_interruption_at_every_step_of_a_save_leaves_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHECKS 33: stopped before each change of a name, without any chance to tidy up."""

    class Killed(BaseException):
        pass

    folder = tmp_path / "folder"
    changes = 0
    for at in range(1, 20):
        with atomic.atomic_folder(folder, manifest=True) as fresh:
            (fresh / "file").write_text("old")
        calls = 0

        def counted(original: Any, at: int = at) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls >= at:  # a killed process does nothing more at all
                    raise Killed
                return original(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", counted(Path.rename))
            patch.setattr(atomic.shutil, "rmtree", counted(atomic.shutil.rmtree))
            try:
                with atomic.atomic_folder(folder, manifest=True) as fresh:
                    (fresh / "file").write_text("new")
            except Killed:
                changes += 1
        found = atomic.existing(folder)
        verify(found)
        assert (found / "file").read_text() in ("old", "new")
        if calls < at:
            break
    assert changes >= 4


@pytest.mark.parametrize("where", ["the first file", "a rename"])
def test_a_full_disk_leaves_the_older_checkpoint(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHECKS 34."""
    agent = new_agent()
    save_checkpoint(agent, tmp_path / "checkpoint-1")
    before = files(tmp_path / "checkpoint-1")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "a rename":
            original = Path.rename
            patch.setattr(Path, "rename", lambda self, to: full() if ".writing" in self.name else original(self, to))
        else:
            patch.setattr(type(agent.policy.actor_critic), "save_pretrained", full)
        with pytest.raises(TextRLError, match=r"checkpoint-1 cannot be written: .*No space left"):
            save_checkpoint(agent, tmp_path / "checkpoint-1")
    assert files(tmp_path / "checkpoint-1") == before
    load_checkpoint(agent, tmp_path / "checkpoint-1")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]  # nothing half-written is left


def test_random_state_round_trip() -> None:
    def draws() -> tuple[Any, ...]:
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))

    np.random.randn()  # leaves a second Gaussian waiting, which is state too
    random.gauss(0, 1)
    state = random_state()
    expected = draws()
    assert draws() != expected
    set_random_state(state)
    assert draws() == expected


def test_state_files_round_trip(tmp_path: Path) -> None:
    tree = {
        "tensor": torch.arange(6, dtype=torch.bfloat16).view(2, 3).T,
        "scalar": torch.tensor(3.5),
        "array": np.array([[True, False]]),
        "list": [1, 2.5, "text", None, {"deep": np.arange(3, dtype=np.int8)}, np.float32(0.25)],
        "big": 2**127 + 1,  # as in the state of a NumPy generator
    }
    save_state(tree, tmp_path, "state")
    back = load_state(tmp_path, "state")
    assert torch.equal(back["tensor"], tree["tensor"])
    assert back["tensor"].dtype == torch.bfloat16
    assert back["scalar"].shape == ()
    assert back["array"].dtype == bool
    assert back["array"].tolist() == [[True, False]]
    assert back["list"][:4] == [1, 2.5, "text", None]
    assert back["list"][4]["deep"].dtype == np.int8
    assert back["list"][5] == 0.25
    assert back["big"] == 2**127 + 1


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.zeros(2, device="meta"), r"no values \(it is on the meta device\)"),
        (torch.eye(2).to_sparse(), r"the layout torch\.sparse_coo"),
    ],
)
def test_tensors_that_no_file_can_hold_are_refused(tensor: torch.Tensor, what: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"the state 'optimizer\.moment' cannot be saved: its tensor has {what}"):
        save_state({"optimizer": {"moment": tensor}}, tmp_path, "state")
    assert not list(tmp_path.iterdir()), "nothing half written"


def test_env_state_restores_rows_in_flight(tiny_task: Task) -> None:
    """Rows at any point, prompts from outside the set, in both autoreset modes; also a seeded row's next prompts."""
    for mode in ("SAME_STEP", "NEXT_STEP"):
        first, second = (TextGenVectorEnv(3, tiny_task, autoreset_mode=mode, kl_mode="cross_entropy") for _ in range(2))
        first.reset(seed=4, options={"prompt": ["hello", "the soup", "the room"]})
        second.reset(seed=99)
        actions = np.random.default_rng(0).integers(2, 300, size=(20, 3))
        for step in range(6):
            first.step(actions[step])
        first.step(np.array([1, 5, 5]))  # row 0 ends
        second.load_state_dict(first.state_dict())
        for step in range(7, 20):
            results = [env.step(actions[step]) for env in (first, second)]
            for left, right in zip(results[0][:4], results[1][:4], strict=True):
                np.testing.assert_allclose(left, right, rtol=1e-5)  # the reference's cache starts anew


def test_env_state_of_other_rows_or_prompts_is_refused(tiny_task: Task) -> None:
    env = TextGenVectorEnv(3, tiny_task)
    env.reset(seed=0)
    state = env.state_dict()
    before = env._mdp.ids.copy()
    with pytest.raises(ConfigError, match=r"saved rows have the shape \(3, 32\), this environment's \(2, 32\)"):
        TextGenVectorEnv(2, tiny_task).load_state_dict(state)
    with pytest.raises(ConfigError, match="is not the one it was saved with"):
        TextGenVectorEnv(3, tiny_task, prompts=["other"] * 4).load_state_dict(state)
    few = TextGenVectorEnv(3, tiny_task, prompts=["the soup"])
    with pytest.raises(ConfigError, match="and there are now 1"):
        few.load_state_dict({**state, "rows": {**state["rows"], "prompts": [3, 3, 3]}})
    assert np.array_equal(env._mdp.ids, before)


def test_capture_is_a_copy() -> None:
    """A run goes on after it; what was captured must not."""
    agent = new_agent()
    agent.learn(N_ENVS * N_STEPS)
    state = capture(agent)
    frozen = json.dumps(state, default=lambda value: value.tolist())
    agent.learn(N_ENVS * N_STEPS, reset_num_timesteps=False)
    assert json.dumps(state, default=lambda value: value.tolist()) == frozen
