"""A training run from its settings to its folder; it can be stopped at any time and goes on exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import torch

from textrl_agents.config import TrainConfig, read_settings
from textrl_agents.evaluation import Evaluation
from textrl_agents.metrics_file import MetricsFile
from textrl_agents.plots import plot_run
from textrl_agents.progress import TrainingProgress
from textrl_agents.quiet import quiet_loading
from textrl_agents.run_folder import RunFolder
from textrl_agents.sample_file import SampleFile
from textrl_agents.stop_signals import StopSignals
from textrl_agents.trainer import Trainer, make_trainer
from textrl_env.errors import ConfigError, TextRLError


class RunResult(NamedTuple):
    """How a run ended."""

    folder: Path
    timesteps: int  # generated tokens, of all sittings
    finished: bool  # False where a signal stopped it
    stopped_by: signal.Signals | None
    before: Evaluation | None  # None in a resumed run, and where eval_episodes is 0
    after: Evaluation | None
    seconds: float


def train(config: TrainConfig, *, progress: bool = True) -> RunResult:
    """Train as `config` says, into a new run folder.

    progress: show it on stderr, as a bar in a terminal and as lines elsewhere.

    Ctrl-C and SIGTERM end the run with a checkpoint; so does a failing reward. Raises ConfigError before anything is
    written.
    """
    config = config.resolved()
    assert config.out is not None  # resolved
    run = RunFolder(config.out)
    run.require_free()
    with quiet_loading():
        return _run(config, run, None, progress)


def resume(folder: str | Path, *, timesteps: int | None = None, progress: bool = True) -> RunResult:
    """Go on with a run exactly where its newest checkpoint was written, or where `folder` itself, a checkpoint, was.

    timesteps: a new length of the whole run. Schedules over the run's length then change from here on.
    """
    run, checkpoint, tokens = _find(Path(folder))
    config = TrainConfig.of(read_settings(run.config), {} if timesteps is None else {"timesteps": timesteps})
    config = dataclasses.replace(config, out=str(run.path)).resolved()
    if tokens >= config.timesteps:
        raise ConfigError(
            f"run {str(run.path)!r} is complete: {tokens} of {config.timesteps} tokens; raise --timesteps to extend it"
        )
    with quiet_loading():
        return _run(config, run, checkpoint, progress, tokens)


def _find(folder: Path) -> tuple[RunFolder, Path | None, int]:
    """The run, the checkpoint to go on from (None: from the start), and its tokens."""
    for run in (RunFolder(folder), RunFolder(folder.parent)):
        if not run.config.is_file():
            continue
        checkpoints = run.checkpoints()
        if run.path != folder:
            checkpoints = [entry for entry in checkpoints if run.checkpoint(entry[0]) == folder]
            if not checkpoints:
                break
        tokens, checkpoint = checkpoints[-1] if checkpoints else (0, None)
        return run, checkpoint, tokens
    raise ConfigError(f"{str(folder)!r} is neither a run folder (with config.yaml) nor a checkpoint of one")


def _run(config: TrainConfig, run: RunFolder, checkpoint: Path | None, progress: bool, tokens: int = 0) -> RunResult:
    started = time.monotonic()
    settings = config.to_yaml()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with contextlib.closing(make_trainer(config)) as trainer:
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if checkpoint is None:
                run.config.write_text(settings, encoding="utf-8")
            trainer.start(run, checkpoint)
            # Only now that the checkpoint has proved sound: what came after it comes again.
            _rewind(run, tokens if checkpoint is not None else -1)
            run.config.write_text(settings, encoding="utf-8")
            with StopSignals() as stop, TrainingProgress(progress) as bar:
                try:
                    finished = trainer.learn(progress=bar, stop_requested=lambda: stop.received is not None)
                except Exception as error:
                    _after_error(error, trainer, run)
                    raise
                run.save_policy(trainer.actor_critic)
            plot_run(MetricsFile(run.metrics).read(), run.curve, title=f"{config.algo.upper()} on {config.task}")
        except TextRLError:
            raise  # some of them are OSErrors too
        except OSError as error:
            raise TextRLError(f"the run could not be written to {str(run.path)!r}: {error}") from error
        return RunResult(
            folder=run.path,
            timesteps=trainer.timesteps,
            finished=finished,
            stopped_by=None if finished else stop.received,
            before=trainer.before,
            after=trainer.after if finished else None,
            seconds=time.monotonic() - started,
        )


def _rewind(run: RunFolder, tokens: int) -> None:
    """Remove what a run wrote after `tokens` tokens."""
    MetricsFile(run.metrics).rewind(tokens)
    SampleFile(run.samples).rewind(tokens)
    for later, folder in run.checkpoints():
        if later > tokens:
            shutil.rmtree(folder)


def _after_error(error: Exception, trainer: Trainer, run: RunFolder) -> None:
    """Save what can be saved, and say how to go on."""
    with contextlib.suppress(TextRLError):  # such as a full disk, which is the error itself then
        trainer.save_after_error(error)
    checkpoints = run.checkpoints()
    how = f"Continue from {checkpoints[-1][1].name} with --resume {run.path}." if checkpoints else ""
    if _is_out_of_memory(error):
        raise TextRLError(
            f"out of memory. Lower {', '.join(trainer.memory_settings)}, or use dtype bfloat16 or lora. {how}"
        ) from error
    if how:
        error.add_note(how)


def _is_out_of_memory(error: Exception) -> bool:
    # torch has a type for it on GPUs; on the CPU it is a RuntimeError of its allocator.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
