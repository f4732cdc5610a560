"""Cells in processes of their own: what one of them does, the others and their results outlive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hang_guard import HANG, attempts
from typer.testing import CliRunner

from textrl_agents.algorithms import registry
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.registry import register_algorithm
from textrl_agents.benchmark.plan import Plan
from textrl_agents.benchmark.pool import CellPool
from textrl_agents.benchmark.results import ResultsFile
from textrl_agents.benchmark.run import run_benchmark
from textrl_agents.benchmark.run_cell import LearningCurve, run_cell
from textrl_agents.cli import app
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.plugins import load_plugin_files

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")

# What a user would write in one file. Each algorithm adds a line to the file `calls` when it is trained.
PLUGIN = """
import copy, dataclasses, os, signal, subprocess, sys, time
from pathlib import Path
import torch
from textrl_agents.algorithms.cell import Trained
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.registry import register_algorithm
from textrl_agents.evaluation import evaluate
from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic

CALLS = Path(__file__).with_name("calls")


def noise(cell, record):
    with CALLS.open("a") as file:
        file.write(f"{cell.algorithm} {cell.seed}\\n")
    arguments = {**cell.env_arguments, "kl_mode": "deferred"}
    env = TextGenVectorEnv(1, autoreset_mode="SAME_STEP", **arguments)
    model = copy.deepcopy(env.kl_penalty.reference.lm.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=cell.settings["size"])
    record(cell.budget // 2, score=float("nan"), kl=0.0, length=1.0)
    record(cell.budget - 1, score=0.5, kl=float("nan"), length=3.0)
    record(cell.budget, score=1.0, kl=0.5, length=3.0)
    policy = CausalLMActorCritic(model, env.tokenizer, max_length=env.rules.max_length)
    return Trained(policy, tokens=cell.budget)


def dies(cell, record):
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def leaves(cell, record):
    sys.exit(3)


def hangs(cell, record):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with CALLS.open("a") as file:
        file.write(f"{os.getpid()} {helper.pid}\\n")
    time.sleep(600)


def raises(cell, record):
    record(10, score=1.0, kl=0.0, length=3.0)
    raise ValueError("no luck")


def diverges(cell, record):
    def evaluation(env, episodes, seed):
        got = evaluate(trained.policy, env=env, episodes=episodes, seed=seed)
        broken = got["kl"]._replace(mean=float("nan"))
        return dataclasses.replace(got, statistics={**got.statistics, "kl": broken})

    trained = noise(cell, record)
    return dataclasses.replace(trained, evaluation=evaluation)


register_algorithm(Algorithm("noise", noise, "random weights", settings={"size": 0.05}))
register_algorithm(Algorithm("diverges", diverges, settings={"size": 0.0}))
for function in (dies, leaves, hangs, raises):
    register_algorithm(Algorithm(function.__name__, function))
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def make_plan(plugin: Path) -> Callable[..., Plan]:
    def make(*algos: str, seeds: int = 1, **arguments: Any) -> Plan:
        given: dict[str, Any] = {"tasks": ["exact"], "budget": 100, "eval_episodes": 8, "device": "cpu", **arguments}
        return Plan.of(algos=algos, seeds=seeds, plugins=[plugin], **given)

    return make


def calls(plugin: Path) -> list[str]:
    file = plugin.with_name("calls")
    return file.read_text().splitlines() if file.exists() else []


def is_running(pid: int) -> bool:
    """A process that has ended but that nobody has waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any]) -> Any:
    return next(value for _ in attempts("it did not happen", pause=0.02) if (value := condition()))


def measured(line: dict[str, Any]) -> dict[str, Any]:
    """What depends on the cell alone, not on the machine or the time."""
    return {name: line[name] for name in ("key", "status", "tokens", "metrics", "curve", "samples")}


# One cell.


def test_a_cell_gives_its_line(plugin: Path) -> None:
    load_plugin_files([plugin])
    cell = Cell("noise", "exact", 1, 100, {"size": 0.3}, {"max_new_tokens": 4}, eval_episodes=16, device="cpu")
    line = run_cell(cell)
    assert (line["status"], line["error"]) == ("done", None)
    assert json.loads(json.dumps(line, allow_nan=False)) == line
    metrics = line["metrics"]
    names = "score kl objective length distinct_1 distinct_2 entropy eos_share normalized"
    assert set(metrics) == set(names.split())  # the task has no gold scorer
    assert metrics["objective"] == pytest.approx(metrics["score"] - 0.5 * metrics["kl"])
    assert 1 <= metrics["length"] <= 4  # the cell's own environment
    assert metrics["normalized"] < -0.01  # random weights are worse than the reference
    assert line["curve"] == [  # what was recorded without an episode is left out, and a KL that is not known
        {"tokens": 99, "score": 0.5, "kl": None, "length": 3.0},
        {"tokens": 100, "score": 1.0, "kl": 0.5, "length": 3.0},
    ]
    assert line["tokens_per_second"] == pytest.approx(100 / line["train_seconds"])
    assert 100 < line["peak_memory_mib"] < 20_000
    assert (line["kl_coef"], line["device"], line["seed"]) == (0.5, "cpu", 1)
    assert [set(sample) for sample in line["samples"]] == [{"prompt", "response", "score", "gold_score", "kl"}] * 6
    again, other = run_cell(cell), run_cell(Cell(**{**vars(cell), "seed": 2}))
    assert measured(again) == measured(line)
    assert other["metrics"] != line["metrics"]
    # Of one seed all algorithms answer the same prompts, and another seed asks for others.
    reference = run_cell(Cell(**{**vars(cell), "algorithm": "reference", "settings": {}}))
    prompts = [[sample["prompt"] for sample in each["samples"]] for each in (line, reference, other)]
    assert prompts[0] == prompts[1] != prompts[2]


def test_a_long_curve_is_thinned_to_means_of_neighbours() -> None:
    curve = LearningCurve()
    for tokens in range(250):
        curve(tokens, score=float(tokens % 3), kl=None if tokens < 3 else 1.0, length=2.0)
    points = curve.thinned()
    assert len(points) == 84
    assert points[:2] == [
        {"tokens": 2, "score": 1.0, "kl": None, "length": 2.0},
        {"tokens": 5, "score": 1.0, "kl": 1.0, "length": 2.0},
    ]
    assert points[-1] == {"tokens": 249, "score": 0.0, "kl": 1.0, "length": 2.0}
    short = LearningCurve()
    short(7, score=0.5, kl=0.1, length=3.0)
    assert short.thinned() == short.points
    assert LearningCurve().thinned() == []


def test_the_reference_is_the_zero_point() -> None:
    line = run_cell(Cell("reference", "exact", 0, 1, eval_episodes=32, device="cpu"))
    assert line["error"] is None
    assert line["metrics"]["normalized"] == pytest.approx(0.0, abs=1e-6)
    assert line["metrics"]["kl"] == pytest.approx(0.0, abs=1e-5)


def test_a_task_with_a_judge_reports_it_and_has_no_known_optimum() -> None:
    line = run_cell(Cell("reference", "sentiment", 0, 1, {}, {"max_new_tokens": 6}, eval_episodes=8, device="cpu"))
    assert line["error"] is None
    assert "gold_score" in line["metrics"]
    assert "normalized" not in line["metrics"]
    assert line["samples"][0]["gold_score"] is not None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"algorithm": "raises"}, "ValueError: no luck"),
        ({"algorithm": "diverges"}, "FloatingPointError: the trained policy's kl is nan: training has diverged"),
        ({"algorithm": "noyse"}, "UnknownName: unknown algorithm 'noyse'. Did you mean 'noise'"),
        ({"task": "exakt"}, "UnknownName: unknown task 'exakt'. Did you mean 'exact'"),
        ({"budget": 0}, "ConfigError: budget must be a whole number >= 1, got 0"),
        ({"env": {"no_such": 1}}, "UnknownArgument: unknown argument of the environment 'no_such'"),
        ({"algorithm": "noise", "settings": {}}, "KeyError: 'size'"),
    ],
)
def test_what_goes_wrong_in_a_cell_is_its_line(change: dict[str, Any], error: str, plugin: Path) -> None:
    load_plugin_files([plugin])
    cell = {"algorithm": "diverges", "task": "exact", "seed": 0, "budget": 100, "settings": {"size": 0.0}, **change}
    line = run_cell(Cell(**cell, eval_episodes=8, device="cpu"))
    assert line["status"] == "failed"
    with pytest.raises(TextRLError, match=f"^{error}"):
        raise TextRLError(line["error"])
    assert "Traceback" in line["traceback"]
    assert (line["metrics"], line["curve"], line["samples"]) == ({}, [], [])
    assert line["tokens"] == (10 if line["algorithm"] == "raises" else line["tokens"])


def test_ctrl_c_in_a_cell_is_not_a_result() -> None:
    def interrupted(cell: Cell, record: Any) -> Any:
        raise KeyboardInterrupt

    register_algorithm(Algorithm("interrupted", interrupted))
    with pytest.raises(KeyboardInterrupt):
        run_cell(Cell("interrupted", "exact", 0, 100, eval_episodes=8, device="cpu"))


# Many cells.


@pytest.mark.slow
def test_side_by_side_gives_what_one_by_one_gives(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan("noise", seeds=2)
    serial = [run_cell(cell) for cell in plan.cells]
    parallel = run_benchmark(plan, tmp_path / "out", jobs=2, progress=False)
    assert [measured(line) for line in parallel] == [measured(line) for line in serial]
    assert {line["key"]: line for line in ResultsFile(tmp_path / "out" / "results.jsonl").read().lines} == {
        line["key"]: line for line in parallel
    }
    assert not (tmp_path / "out" / "logs").exists()


@POSIX
@pytest.mark.slow
def test_cells_that_die_are_recorded_and_the_others_go_on(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan("dies", "leaves", "noise")
    lines = run_benchmark(plan, tmp_path / "out", jobs=2, progress=False)
    assert [line["error"] for line in lines] == [
        "ProcessDied: its process was ended by SIGKILL (the system does so where memory runs out)",
        "ProcessDied: its process ended with exit code 3 and without a result",
        None,
    ]
    assert [line["status"] for line in lines] == ["failed", "failed", "done"]
    assert lines[0]["traceback"] == "last words\n"
    assert [path.name for path in (tmp_path / "out" / "logs").iterdir()] == [f"dies-exact-0-{plan.cells[0].key}.log"]


@POSIX
@pytest.mark.slow
def test_a_cell_that_takes_too_long_is_ended_with_all_it_has_started(
    make_plan: Callable[..., Plan], plugin: Path, tmp_path: Path
) -> None:
    (line,) = run_benchmark(make_plan("hangs"), tmp_path / "out", time_limit=3.0, progress=False)
    assert line["error"] == "TimeoutError: it was not done after its time limit of 3 s"
    assert line["train_seconds"] >= 3.0
    assert not [pid for text in calls(plugin) for pid in text.split() if is_running(int(pid))]


@pytest.mark.slow
def test_a_run_goes_on_and_runs_no_cell_twice(
    make_plan: Callable[..., Plan], plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    plan = make_plan("noise", "raises")
    first = run_benchmark(plan, out, jobs=2)
    assert [line["status"] for line in first] == ["done", "failed"]
    shown = capsys.readouterr().err
    assert "raises on exact, seed 0: FAILED: ValueError: no luck" in shown
    assert "[2/2]" in shown
    assert calls(plugin) == ["noise 0"]
    second = run_benchmark(None, out, jobs=2, trust=True)  # with the plan that is there; what failed is tried again
    assert calls(plugin) == ["noise 0"]
    assert second[0] == first[0]
    lines = ResultsFile(out / "results.jsonl").read().lines
    assert [line["algorithm"] for line in lines].count("raises") == 2
    # A torn last line, as a killed run leaves it: that cell alone is run again.
    done = (out / "results.jsonl").read_text().splitlines(keepends=True)
    text = next(entry for entry in done if '"algorithm": "noise"' in entry)
    (out / "results.jsonl").write_text(text[: len(text) // 2])
    capsys.readouterr()
    larger = run_benchmark(make_plan("noise", seeds=2), tmp_path / "other", jobs=1, progress=False)
    third = run_benchmark(make_plan("noise", "raises", seeds=2), out, jobs=2)  # a larger plan is welcome
    assert "results.jsonl was cut off; its cell is run again" in " ".join(capsys.readouterr().err.split())
    assert calls(plugin).count("noise 0") == 3
    assert [measured(line) for line in third if line["algorithm"] == "noise"] == [measured(line) for line in larger]
    with pytest.raises(
        ConfigError, match=r"holds another benchmark: 4 of its 4 cells.*such as noise on exact with 100"
    ):
        run_benchmark(make_plan("noise", "raises", seeds=2, budget=7), out)
    assert Plan.read(out / "benchmark.yaml").seeds == 2


def test_two_runs_do_not_write_one_folder(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    out.mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import filelock\nwith filelock.FileLock({str(out / '.lock')!r}):\n    print('held', flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=r"is being written by another run"):
            run_benchmark(make_plan("noise"), out)
        assert not (out / "benchmark.yaml").exists()
    finally:
        holder.kill()
        holder.communicate()
    with FileLock(out / ".lock", timeout=HANG):  # the lock of a run that was killed holds nobody up
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": None}, "holds no benchmark to go on with"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"time_limit": -1.0}, "time limit is a number of seconds > 0"),
        ({"time_limit": 1.0, "ray": True}, "and not for --ray"),
        ({"out": __file__}, "is a file; a benchmark needs a folder"),
        ({"out": Path(__file__).parent}, r"is not empty, and what it holds is no benchmark: .*\. Choose another --out"),
        ({"out": "x" * 5000}, "cannot be used as a path: File name too long"),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: dict[str, Any], message: str, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_benchmark(**{"plan": make_plan("noise"), "out": tmp_path / "out", **arguments})


@pytest.mark.slow
def test_an_exception_of_the_caller_leaves_no_process(plugin: Path, tmp_path: Path) -> None:
    """Such as a full disk when a result is written."""

    def full(cell: Cell, line: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    cells = [Cell(name, "exact", 0, 100, eval_episodes=8, device="cpu") for name in ("hangs", "raises")]
    with pytest.raises(OSError, match="No space left"):
        CellPool(2, logs=tmp_path / "logs", plugins=[str(plugin)]).run(cells, started=lambda cell: None, finished=full)
    assert not [pid for text in calls(plugin) for pid in text.split() if is_running(int(pid))]


# Signals, in a benchmark that is a process of its own.


@pytest.fixture
def benchmark(plugin: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`textrl bench run` with one cell that is done and two that hang."""
    command = [sys.executable, "-m", "textrl_agents.cli", "bench", "run", "--out", str(tmp_path / "out")]
    names = ["--plugin", str(plugin), "--algos", "noise,hangs", "--tasks", "exact", "--seeds", "2"]
    process = subprocess.Popen(
        [*command, *names, "--budget", "100", "--eval-episodes", "8", "--device", "cpu", "--jobs", "3"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal gives it: Ctrl-C reaches the whole group
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def in_flight(plugin: Path, out: Path) -> Callable[[], list[int] | None]:
    """The processes of the two cells that hang, once both do and the others are recorded."""

    def look() -> list[int] | None:
        pids = [int(pid) for text in calls(plugin) if text[0].isdigit() for pid in text.split()]
        recorded = ResultsFile(out / "results.jsonl").read().lines
        return pids if len(pids) == 4 and len(recorded) == 2 else None

    return look


@POSIX
@pytest.mark.slow
def test_ctrl_c_leaves_no_child_and_keeps_what_is_done(
    benchmark: subprocess.Popen[str], plugin: Path, tmp_path: Path
) -> None:
    """CHECKS 39."""
    pids = wait_for(in_flight(plugin, tmp_path / "out"))
    os.killpg(benchmark.pid, signal.SIGINT)
    stdout, stderr = benchmark.communicate(timeout=HANG)
    assert benchmark.returncode == 130, stderr
    assert stdout == ""
    assert "stopped by SIGINT with 2 of 4 cells done; continue with: textrl bench run --out" in stderr
    assert "Traceback" not in stderr
    assert not [pid for pid in pids if is_running(pid)]
    lines = ResultsFile(tmp_path / "out" / "results.jsonl").read().lines
    assert [(line["algorithm"], line["status"]) for line in lines] == [("noise", "done")] * 2


@POSIX
@pytest.mark.slow
def test_a_benchmark_that_is_killed_takes_its_cells_along(
    benchmark: subprocess.Popen[str], plugin: Path, tmp_path: Path
) -> None:
    pids = wait_for(in_flight(plugin, tmp_path / "out"))
    benchmark.kill()
    benchmark.communicate(timeout=HANG)
    wait_for(lambda: not [pid for pid in pids if is_running(pid)])
    contents = ResultsFile(tmp_path / "out" / "results.jsonl").read()
    assert (len(contents.lines), contents.torn) == (2, "")


# The command line.


def textrl(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command_runs_reports_and_says_what_failed(plugin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = ["--tasks", "exact", "--seeds", 1, "--budget", 100, "--eval-episodes", 8, "--device", "cpu", "--jobs", 2]
    arguments = ["bench", "run", "--plugin", plugin, "--algos", "noise,raises", *sizes, "--out", out]
    result = textrl(*arguments, "--set", "noise.size=0.1", "--env", "kl_coef=0.25")
    assert result.exit_code == 1  # after all have run
    assert "1 of 2 cells failed" in result.stderr
    assert all(text in result.stdout for text in ("noise", "raises", "0/1", "objective"))
    assert "report.md" in result.stdout
    assert {"report.md", "report.html", "results.jsonl", "benchmark.yaml"} <= {path.name for path in out.iterdir()}
    line = ResultsFile(out / "results.jsonl").read().lines[0]
    assert (line["settings"]["size"] if line["settings"] else 0.1, line["kl_coef"]) == (0.1, 0.25)
    report = textrl("bench", "report", out, "--json")
    assert report.exit_code == 0
    assert len(json.loads(report.stdout)["results"]) == 2
    # Without the one that fails, as JSON alone, and a second time at once.
    quiet = ["bench", "run", "--plugin", plugin, "--algos", "noise", *sizes, "--out", tmp_path / "quiet", "--json"]
    results = [textrl(*quiet) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0]
    assert json.loads(results[0].stdout) == json.loads(results[1].stdout)
    assert json.loads(results[0].stdout)[0]["status"] == "done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--algos", "ppoo", "--tasks", "exact"], "error: unknown algorithm 'ppoo'. Did you mean 'ppo'?"),
        (["run", "--algos", "ppo", "--tasks", "exakt"], "error: unknown task 'exakt'. Did you mean 'exact'?"),
        (["run", "--preset", "quik"], "unknown preset 'quik'. Did you mean 'quick'?"),
        (["run", "--algos", "ppo"], "name what to run"),
        (["run", "--algos", ","], "--algos takes names with commas between them"),
        (["run"], "holds no benchmark to go on with"),
        (["run", "--set", "n_steps=3"], "--set takes ALGO.NAME=VALUE"),
        (["run", "--preset", "quick", "--env", "kl_cof=3"], "Did you mean 'kl_coef'?"),
        (["run", "--preset", "quick", "--plugin", "none.py"], "is not a Python file"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = textrl("bench", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_without_results_has_no_report(tmp_path: Path) -> None:
    result = textrl("bench", "report", tmp_path)
    assert result.exit_code == 2
    assert "holds no results" in result.stderr


def test_list_shows_every_name() -> None:
    listed = json.loads(textrl("bench", "list", "--json").stdout)
    assert {"reference", "ppo", "q_learning"} <= set(listed["algorithms"])
    assert {"exact", "sentiment"} <= set(listed["tasks"])
    assert set(listed["presets"]) == {"quick", "default", "turns"}
    shown = textrl("bench", "list")
    assert shown.exit_code == 0
    for kind in listed.values():
        assert all(kind.values())  # every name says what it is
        assert all(name in shown.stdout for name in kind)


@pytest.mark.parametrize("command", ["run", "report", "list"])
def test_every_option_is_explained(command: str) -> None:
    import typer.main

    group: Any = typer.main.get_command(app)
    parameters = group.commands["bench"].commands[command].params
    assert all(parameter.help for parameter in parameters)
    assert textrl("bench", command, "--help").exit_code == 0


# Ray.


def test_algorithms_that_use_ray_themselves_are_left_out_of_its_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    started: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda **arguments: started.append(arguments))
    register_algorithm(Algorithm("actors", "somewhere:train", requires={"ray": "rllib"}))
    plan = Plan.of(algos=["actors"], tasks=["exact"], seeds=1, budget=10, device="cpu")
    assert run_benchmark(plan, tmp_path / "out", ray=True) == []
    assert started == []  # another test's Ray may run already
    shown = " ".join(capsys.readouterr().err.split())
    assert "actors use Ray themselves and cannot run inside its trials; the same command without --ray" in shown


@pytest.mark.parametrize(
    ("resources", "jobs", "share"),
    [
        ({"CPU": 16.0, "GPU": 1.0}, None, 0.0625),
        ({"CPU": 16.0, "GPU": 1.0}, 3, 0.3333),
        ({"CPU": 2.0, "GPU": 8.0}, 1, 1),
    ],
)
def test_trials_share_the_gpus_there_are(
    resources: dict[str, float], jobs: int | None, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that as many run at once as were asked for, or as there are CPUs."""
    ray = pytest.importorskip("ray")
    from textrl_agents.benchmark.ray_tune import trial_resources

    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    cells = [Cell("reference", "exact", 0, 1)]
    assert trial_resources(cells, jobs) == {"cpu": 1, "gpu": share}
    assert trial_resources([Cell("reference", "exact", 0, 1, device="cpu")], jobs) == {"cpu": 1}
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    assert trial_resources(cells, jobs) == {"cpu": 1}


@pytest.mark.ray
@POSIX
def test_ray_tune_runs_the_same_cells(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    plan = make_plan("noise", "dies", "raises")
    arguments = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    lines = run_benchmark(plan, out, ray=True, ray_arguments=arguments, progress=False)
    assert measured(lines[0]) == measured(run_cell(plan.cells[0]))
    assert [line["status"] for line in lines] == ["done", "failed", "failed"]
    assert lines[1]["error"].startswith("RayError: ")
    assert lines[2]["error"] == "ValueError: no luck"
    assert {path.name for path in out.iterdir()} == {".lock", "benchmark.yaml", "results.jsonl"}
