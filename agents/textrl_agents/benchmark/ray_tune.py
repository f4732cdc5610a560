"""Cells on a Ray cluster: each is a trial of Ray Tune, and sends its line back to this process."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune

from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.benchmark.results import failed, new_line
from textrl_agents.rllib.ray_session import environment_variables, ray_session
from textrl_agents.training.terminal import errors_only
from textrl_env.plugins import load_plugin_files

# Tune's own records of the trials. They are removed at the end: results.jsonl holds what is to be kept.
TUNE_FOLDER = "ray_tune"
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # else CSV, JSON and TensorBoard files of every trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # this process decides what a signal does
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "600",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # files that a cell names are found from where the user stands
    "RAY_AIR_NEW_OUTPUT": "0",
}


class StoppedOnRequest(Exception):
    """Ends Tune's loop from one of its callbacks."""


def runs_in_a_trial(cell: Cell) -> bool:
    """Whether the algorithm does not use Ray itself: its own actors would wait for CPUs that the trials hold."""
    return "ray" not in get_algorithm(cell.algorithm).requires


def run_cells_with_tune(
    cells: Sequence[Cell],
    *,
    folder: str | Path,
    started: Callable[[Cell], None],
    finished: Callable[[Cell, dict[str, Any]], None],
    stop_requested: Callable[[], bool] = lambda: False,
    plugins: Sequence[str] = (),
    jobs: int | None = None,
    address: str | None = None,
    **ray_arguments: Any,
) -> None:
    """Call `finished` with each cell's line as it comes.

    Each trial holds one CPU and, where the cluster has GPUs and the cells may use one, a share of it.
    jobs: trials at once; None for as many as there are CPUs. address, ray_arguments: see `ray_session`.
    """
    storage = Path(folder).resolve()
    with (
        environment_variables(_ENVIRONMENT),
        errors_only("ray"),
        errors_only("ray.train"),
        errors_only("ray.tune", logging.CRITICAL),
        ray_session(address, **ray_arguments),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Ray's remarks on its own deprecated modules
        callback = _TrialCallback(cells, started, finished, stop_requested)
        tuner = tune.Tuner(
            tune.with_resources(_trial, trial_resources(cells, jobs)),
            param_space={
                "cell": tune.grid_search([dataclasses.asdict(cell) for cell in cells]),
                "plugins": list(plugins),
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=jobs),
            run_config=tune.RunConfig(
                name=TUNE_FOLDER, storage_path=str(storage), callbacks=[callback], verbose=0, log_to_file=False
            ),
        )
        try:
            tuner.fit()
        except StoppedOnRequest:
            pass
        finally:
            shutil.rmtree(storage / TUNE_FOLDER, ignore_errors=True)


def _trial(config: dict[str, Any]) -> None:
    """Run a cell in Tune's process."""
    load_plugin_files(config["plugins"])
    from textrl_agents.benchmark.run_cell import run_cell

    # As text: Tune flattens a mapping into a metric for each entry.
    tune.report({"line": json.dumps(run_cell(Cell(**config["cell"])), default=str)})


class _TrialCallback(tune.Callback):  # type: ignore[misc]  # Ray is not followed by the type checker
    """Passes on in this process what happens to the trials."""

    def __init__(
        self,
        cells: Sequence[Cell],
        started: Callable[[Cell], None],
        finished: Callable[[Cell, dict[str, Any]], None],
        stop_requested: Callable[[], bool],
    ):
        self._started, self._finished, self._stop_requested = started, finished, stop_requested
        self._open = {cell.key: cell for cell in cells}
        self._times: dict[str, datetime] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks for a resume that is never asked for."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._stop_requested():
            raise StoppedOnRequest

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        cell = Cell(**trial.config["cell"])
        self._times[cell.key] = datetime.now(UTC)
        self._started(cell)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "line" in result:
            self._close(Cell(**trial.config["cell"]), json.loads(result["line"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        cell = Cell(**trial.config["cell"])
        trace = (Path(trial.error_file).read_text() if trial.error_file else "").strip()
        last = next((text for text in reversed(trace.splitlines()) if text.strip()), "the trial ended without a result")
        last = last.strip().partition(". Some common causes include")[0]
        line = new_line(cell, started=self._times.get(cell.key, datetime.now(UTC)))
        self._close(cell, failed(line, f"RayError: {last}", trace))

    def _close(self, cell: Cell, line: dict[str, Any]) -> None:
        if self._open.pop(cell.key, None) is not None:
            self._finished(cell, line)


def trial_resources(cells: Sequence[Cell], jobs: int | None) -> dict[str, float]:
    """Return what a trial holds: one CPU, and a share of a GPU that lets `jobs` trials, or one a CPU, run at once."""
    resources = ray.cluster_resources()
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
    if not gpus or all(cell.device.startswith("cpu") for cell in cells):
        return {"cpu": 1}
    share = int(gpus / (jobs or cpus) * 1e4) / 1e4  # Ray counts in 1/10000
    return {"cpu": 1, "gpu": min(1.0, max(1e-4, share))}
