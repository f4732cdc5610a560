"""Ray as a training run needs it: no dashboard, nothing on the network, nothing left behind."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import ray_constants

from textrl_env.errors import ConfigError
from textrl_env.user_values import check_names

# Errors reach the driver as exceptions; what workers print is in Ray's log folder.
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextlib.contextmanager
def ray_session(address: str | None = None, **arguments: Any) -> Iterator[None]:
    """Ray for the duration of a `with` block; a Ray that runs already is used and left running.

    address: of a cluster to join ("auto", "ray://..."). None starts Ray on this machine: without its dashboard, bound
        to the loopback interface, and without usage statistics.
    arguments: `ray.init`'s own (`num_cpus`, `num_gpus`, `include_dashboard`, ...).
    """
    known = [name for name in inspect.signature(ray.init).parameters if not name.startswith("_")]
    check_names("argument of Ray", arguments, known)
    if ray.is_initialized():
        yield
        return
    # Set before the first process starts: Ray would otherwise report to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = address is None or address.startswith(("127.0.0.1:", "localhost:"))
    if address is None:
        arguments = {"include_dashboard": False, **arguments}
    try:
        with _loopback() if here else contextlib.nullcontext():
            ray.init(address=address, **{**QUIET, **arguments})
    except (ConnectionError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        what = "be started" if address is None else f"be joined at {address!r}"
        raise ConfigError(f"Ray could not {what} with {arguments}: {type(error).__name__}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray's servers bind to the loopback interface, as they do where no cluster can form.

    That is Ray's own switch, for operating systems whose firewalls would ask. Ray has read it when it was imported, so
    its constant is set as well.
    """
    allowed = ray_constants.ENABLE_RAY_CLUSTER
    with environment_variables({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = allowed


@contextlib.contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, which those that it starts inherit, while a `with` block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
