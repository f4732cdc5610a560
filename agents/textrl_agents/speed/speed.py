"""`textrl bench speed`: what this package promises about speed and memory, measured side by side on this machine.

A row runs both sides in turn. Wherever there is something to compare with, its value is a ratio, which means the same
on a fast machine and on a slow one.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from textrl_agents.speed.measurement import Bench, Measurement
from textrl_agents.speed.names import MODEL_ROWS, SPEED_ROWS, chosen_names
from textrl_agents.speed.workload import Workload, embedded_workload
from textrl_agents.training.extras import missing_extra
from textrl_agents.training.terminal import errors_only
from textrl_env.foreign_text import message_of
from textrl_env.models.storage.loading import resolve_device
from textrl_env.user_values import check_whole

GPU_ROWS = 256  # a CPU is busy with fewer


def run_speed(
    *,
    device: str | torch.device = "auto",
    model: str | None = None,
    only: str | Sequence[str] | None = None,
    repeats: int = 3,
    quick: bool = False,
    threads: int | None = None,
    rows: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Run the measurements, and return a row of each.

    device: as for `load_model`.
    model: None measures the embedded models; a name, as `load_model` takes it, measures that model, with the settings
        of `textrl demo --model`.
    only: a part of the names in `SPEED_ROWS` (`MODEL_ROWS` for a model), or several; every measurement whose name
        contains one is run.
    repeats: rounds of each comparison; the value is their median. quick: less work, about a minute in all.
    threads: of torch on a CPU; None for one, and for a model by name for as many as torch takes by itself.
    rows: responses sampled at once, where a measurement has such a size; None for its own, and for a model by name on
        a GPU for `GPU_ROWS`.
    progress: called with each measurement's name when it starts.

    A row has `name`, `value`, `unit`, `target` (such as ">= 1"), `ok`, `detail` and `quick`. A measurement that fails
    is a row with the value None, not ok, and the error as its detail. Raises UnknownName where `only` fits no
    measurement, ConfigError for a device that is not there, and ModelError for a model that cannot be loaded.
    """
    check_whole("repeats", repeats, 1)
    for name, given in (("threads", threads), ("rows", rows)):
        if given is not None:
            check_whole(name, given, 1)
    table = SPEED_ROWS if model is None else MODEL_ROWS
    names = chosen_names(only, table)
    place = resolve_device(device)
    before = torch.get_num_threads()
    try:
        if place.type == "cpu" and (threads or model is None):
            torch.set_num_threads(threads or 1)
        bench = Bench(place, _workload(model, place), repeats)
        if rows is None and model is not None and place.type == "cuda" and not quick:
            rows = GPU_ROWS
        sizes = {} if rows is None else {"rows": rows}
        return [measure_row(name, bench, quick=quick, sizes=sizes, table=table, progress=progress) for name in names]
    finally:
        torch.set_num_threads(before)


def _workload(model: str | None, device: torch.device) -> Callable[[], Workload]:
    """What loads the models, once: the embedded ones at the first row that needs them, one by name at once."""
    if model is None:
        return functools.cache(lambda: embedded_workload(device))
    from textrl_agents.speed.pretrained.workload import pretrained_workload

    loaded = pretrained_workload(model, device)
    return lambda: loaded


def measure_row(
    name: str,
    bench: Bench,
    *,
    quick: bool = False,
    sizes: Mapping[str, Any] | None = None,
    table: Mapping[str, str] = SPEED_ROWS,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure one row of `table`. sizes: on top of the full or the quick ones, where the measurement has them."""
    if progress is not None:
        progress(name)
    row = {"name": name, "value": None, "unit": "", "target": "", "ok": False, "detail": "", "quick": quick}
    try:
        with errors_only("ray"), errors_only("ray.rllib"):
            found = load_measurement(name, table)
            known = inspect.signature(found.measure).parameters
            chosen = {size: value for size, value in (sizes or {}).items() if size in known}
            measured = found.measure(bench, **{**(found.quick if quick else {}), **chosen})
    except Exception as error:  # the other measurements are still worth having
        error = missing_extra(error) or error
        return {**row, "detail": f"{type(error).__name__}: {message_of(error)}"}
    target = (found.quick_target if quick else None) or found.target
    return {
        **row,
        "value": float(measured.value),
        "unit": found.unit,
        "target": "" if target is None else str(target),
        "ok": (target is None or target.met_by(measured.value)) and measured.within,
        "detail": measured.detail,
    }


def load_measurement(name: str, table: Mapping[str, str] = SPEED_ROWS) -> Measurement:
    """Import a row's measurement. Each is imported when it is measured: RLlib and TRL need not be installed."""
    found = pkgutil.resolve_name(table[name])
    assert isinstance(found, Measurement)
    return found
