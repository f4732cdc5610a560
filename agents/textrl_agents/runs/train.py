"""A training run from its settings to its folder. It can be stopped at any time, and goes on exactly where it was."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from textrl_agents.evaluation import Evaluation
from textrl_agents.runs.atomic import existing, locked_folder, remove_folder, write_atomically
from textrl_agents.runs.checkpoint_files import POLICY_FOLDER, SETTINGS_COPY
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import MetricsFile, SampleFile
from textrl_agents.runs.plots import plot_run
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.runs.trainer import Trainer, make_trainer
from textrl_agents.training.terminal import StopSignals, TrainingProgress
from textrl_agents.training.trust import require_trust, resume_command
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.models.storage.manifest import verify
from textrl_env.user_values import user_path


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
    """Train as `config` says, into a new run folder. Raises ConfigError before anything is written.

    Ctrl-C, SIGTERM and a failing reward end the run with a checkpoint.
    progress: whether to show it on stderr, as a bar in a terminal and as lines elsewhere.
    """
    config = config.resolved()
    assert config.out is not None  # resolved
    run = RunFolder(config.out)
    run.require_free()
    with locked_folder(run.path):
        run.require_free()  # another run may have begun and ended in between
        return _run(config, run, None, progress)


def resume(
    folder: str | Path, *, timesteps: int | None = None, progress: bool = True, trust: bool | None = False
) -> RunResult:
    """Go on with a run exactly where its newest checkpoint was written. folder: the run's, or one of its checkpoints.

    timesteps: a new length of the whole run. Schedules over the run's length then change from here on.
    trust: whether to run the Python that the folder's settings name, such as a reward in a file; None asks at a
        terminal.

    A run that was killed after training and before all was written gets what is missing. Raises ConfigError for a run
    that is complete, where `config.yaml` is not the one that the checkpoint was trained with, and where it names Python
    that `trust` does not allow.
    """
    folder = user_path(folder)
    run = _home(folder)
    with locked_folder(run.path):
        checkpoint, tokens = _checkpoint(run, folder)
        config = TrainConfig.of_run(run.config, {} if timesteps is None else {"timesteps": timesteps})
        require_trust(dataclasses.asdict(config), run.path, trust)
        if not (algorithm := config.algorithm_entry).has_checkpoints:
            raise ConfigError(
                f"{algorithm.name} has no checkpoints: what it trains with beside the weights, such as a replay buffer "
                "or a table, is not saved. A run of it cannot go on; start a new one with another --out"
            )
        config = dataclasses.replace(config, out=str(run.path)).resolved()
        if checkpoint is not None:
            _require_same(config, checkpoint)
        if tokens >= config.timesteps and run.is_finished(tokens):
            raise ConfigError(
                f"run {str(run.path)!r} is complete: {tokens} of {config.timesteps} tokens; raise --timesteps to "
                "extend it"
            )
        return _run(config, run, checkpoint, progress, tokens)


def _home(folder: Path) -> RunFolder:
    """Find the run that `folder` is, or is a checkpoint of."""
    for run in (RunFolder(folder), RunFolder(folder.parent)):
        if run.config.is_file():
            return run
    raise ConfigError(f"{str(folder)!r} is neither a run folder (with config.yaml) nor a checkpoint of one")


def _checkpoint(run: RunFolder, folder: Path) -> tuple[Path | None, int]:
    """Find the checkpoint to go on from (None: from the start) and its tokens."""
    checkpoints = run.checkpoints()
    if run.path != folder:
        checkpoints = [entry for entry in checkpoints if run.checkpoint(entry[0]) == folder]
        if not checkpoints:
            raise ConfigError(f"{str(folder)!r} is no checkpoint of the run {str(run.path)!r}")
    return (checkpoints[-1][1], checkpoints[-1][0]) if checkpoints else (None, 0)


def _require_same(config: TrainConfig, checkpoint: Path) -> None:
    """Raise ConfigError where a run's settings are not those that its checkpoint was trained with."""
    verify(checkpoint, only=SETTINGS_COPY)
    before = TrainConfig.of_run(checkpoint / SETTINGS_COPY)
    if changed := config.changed_since(before):
        was, now = ({name: getattr(settings, name) for name in changed} for settings in (before, config))
        raise ConfigError(
            f"config.yaml is not the one that {checkpoint} was trained with: that had {was}, this has {now}. Put it "
            f"back (a copy is {SETTINGS_COPY} in the checkpoint), or start a new run from its policy with --model "
            f"{checkpoint / POLICY_FOLDER}"
        )


def _run(config: TrainConfig, run: RunFolder, checkpoint: Path | None, progress: bool, tokens: int = 0) -> RunResult:
    started = time.monotonic()
    settings = config.to_yaml()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with _exit_is_an_error(), contextlib.closing(make_trainer(config)) as trainer:
        try:
            if checkpoint is None:
                write_atomically(run.config, settings)
            trainer.start(run, checkpoint)
            # The checkpoint has proved sound by now. What came after it comes again.
            _rewind(run, tokens if checkpoint is not None else -1)
            write_atomically(run.config, settings)
            _say_least(config, trainer)
            with StopSignals(_answer_to_signals(config)) as stop, TrainingProgress(progress) as bar:
                finished = trainer.timesteps >= config.timesteps or _learn(trainer, config, run, bar, stop)
                if (policy := trainer.actor_critic) is not None:
                    run.save_policy(policy, trainer.timesteps)
                elif finished:
                    _say(f"note: there is no policy/, since what {config.algo} trains is no model that can be saved")
            plot_run(MetricsFile(run.metrics).read(), run.curve, title=f"{config.algo.upper()}, {config.title}")
        except TextRLError:
            raise  # some of them are OSErrors too
        except OSError as error:
            raise _not_written(error, run) from error
        evaluations = trainer.evaluations
        return RunResult(
            folder=run.path,
            timesteps=trainer.timesteps,
            finished=finished,
            stopped_by=None if finished else stop.received,
            before=evaluations.before if evaluations else None,
            after=evaluations.after if evaluations and finished else None,
            seconds=time.monotonic() - started,
        )


def _learn(trainer: Trainer, config: TrainConfig, run: RunFolder, bar: TrainingProgress, stop: StopSignals) -> bool:
    """Train to the end; return False where a signal ended it early. After an error, save what can be saved."""
    try:
        return trainer.learn(progress=bar, stop_requested=lambda: stop.received is not None)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and stop.received is not None:
            raise  # the second Ctrl-C, which stops at once
        with contextlib.suppress(TextRLError):  # such as a full disk, which is the error itself then
            trainer.save_after_error(error)
        checkpoints = run.checkpoints()
        command = resume_command(run.path, dataclasses.asdict(config))
        how = f"Continue from {checkpoints[-1][1].name} with: {command}" if checkpoints else ""
        if _is_out_of_memory(error):
            raise TextRLError(
                f"out of memory. Lower {', '.join(trainer.memory_settings)}, or use dtype bfloat16 or lora. {how}"
            ) from error
        if not isinstance(error, Exception):
            # No Ctrl-C: the first one is a request to stop.
            raise TextRLError(
                f"code that the run calls, such as its reward, raised {type(error).__name__}. {how}"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, TextRLError):
            raise _not_written(error, run, how) from error
        if how:
            error.add_note(how)
        raise


def _rewind(run: RunFolder, tokens: int) -> None:
    """Remove what a run wrote after `tokens` tokens, and its curve: it is drawn again at the end.

    The newest goes first: a process that is killed meanwhile leaves a run that goes on from a checkpoint whose metrics
    are all there.
    """
    if run.policy_tokens is not None and run.policy_tokens > tokens:
        remove_folder(existing(run.policy))
    for later, folder in reversed(run.checkpoints()):
        if later > tokens:
            remove_folder(folder)
    run.curve.unlink(missing_ok=True)
    MetricsFile(run.metrics).rewind(tokens)
    SampleFile(run.samples).rewind(tokens)


def _say_least(config: TrainConfig, trainer: Trainer) -> None:
    """Tell that a run which asks for less than a rollout trains on a whole one."""
    rollout, done = trainer.rollout_tokens, trainer.timesteps
    if rollout is not None and done < config.timesteps < done + rollout:
        _say(
            f"note: a rollout is {rollout:,} tokens, so the run trains on at least {done + rollout:,} instead of "
            f"{config.timesteps:,}"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _answer_to_signals(config: TrainConfig) -> str:
    answer = "saving a checkpoint" if config.algorithm_entry.has_checkpoints else "stopping at the next record"
    return f"{answer}; once more stops at once"


@contextlib.contextmanager
def _exit_is_an_error() -> Iterator[None]:
    """Raise TextRLError for `sys.exit(0)` in a file that the run loads, which would look like a run that was done."""
    try:
        yield
    except SystemExit as error:
        raise TextRLError(f"code that the run loads called sys.exit({error.code!r})") from error


def _not_written(error: OSError, run: RunFolder, how: str = "") -> TextRLError:
    return TextRLError(f"the run could not be written to {str(run.path)!r}: {error}. {how}".rstrip())


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has a type for it on GPUs; on the CPU it is a RuntimeError of its allocator.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
