"""The environment whose state is a training run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from textrl_env.errors import ConfigError, InvalidAction, ModelError, ResetNeeded, TrainingDiverged, UnknownArgument
from textrl_env.finetune.changes import MULTIPLIERS, Change, all_changes, check_optimizers
from textrl_env.finetune.observation import ObservationColumns
from textrl_env.finetune.training_run import Measurement, Settings, SnapshotRun, TrainingRun
from textrl_env.foreign_text import shown
from textrl_env.user_values import check_number, check_seed, check_whole

LARGEST_ORDER_SEED = 2**31 - 1


class EpisodeState(NamedTuple):
    """An episode apart from its run's weights. before: the measurement a segment ago. spent: compute so far, where 1 is
    a segment at the start's batch size. finish_reason: "" while the episode goes on.
    """

    settings: Settings
    before: Measurement
    now: Measurement
    segment: int
    spent: float
    finish_reason: str


class EnvSnapshot(NamedTuple):
    """What `FineTuneEnv.snapshot` gives. segments, columns: of the environment's episodes and observations."""

    episode: EpisodeState
    run: Any
    segments: int
    columns: tuple[str, ...]


class FineTuneEnv(gymnasium.Env[np.ndarray, np.int64]):
    """Fine-tuning as a Markov decision process: the state is the training run, an action changes its settings.

    ## Description
    An episode trains a model from one snapshot, in `segments` segments of `steps` optimizer steps. Before each the
    agent sees how the run goes, and changes the learning rate; where the options allow it, the optimizer and the batch
    size too. The validation loss says how good that was.

    ## Action Space
    `Discrete(n)`, one for each combination: learning rate times 1/4, 1/2, 1, 2 or 4 (`multipliers`), the next optimizer
    (`optimizers`, such as `["adamw", "sgd", "adafactor"]`), the batch size times `batch_factors`, and at last to stop
    (`stop=True`). `env.changes[action]` says what an action does. By default there are the five rates alone.

    ## Observation Space
    `Box(float32)`: the columns of `textrl_env.finetune.observation.ObservationColumns`, which `env.columns.names`
    lists: log10 of the learning rate, the optimizer as one-hot, log2 of the batch size, train and validation loss and
    their change, log10 of the gradient's norm, and the share of the budget used. Every number is finite.

    ## Rewards
    The fall of the log validation loss over the segment, minus `compute_price` times the segment's compute, where 1 is
    a segment at the start's batch size. Their sum is `log(first loss / last loss)`, less the price. A run of your own
    says by its `score` what the reward is the rise of.

    ## Starting State
    The run's start, always the same. `order_seed` is the seed of what is random in the run, such as its data's order;
    with the default, 0, the environment is deterministic. None draws a new one at each reset, from `np_random`.

    ## Episode End
    `terminated` after the last segment, at a stop, and where the run diverges: it then keeps the loss `ceiling`, twice
    that of guessing any token. `info["finish_reason"]` is `"budget"`, `"stop"` or `"diverged"`. `truncated` is left to
    outer time limits.

    ## Arguments
    data: a built-in task with right answers of its own, or rows `{"prompt": ..., "completion": ...}`. It and all
        that is not named here are arguments of `SupervisedRun`, such as `model`, `steps` and `learning_rate`.
    run: a training run of your own in place of that, such as PPO on a task (`textrl_agents.finetune.ppo_run`).
    multipliers: of the learning rate; or dial -> multipliers, where a run has others.

    ## Info
    The run's settings (`learning_rate`, `optimizer`, `batch_size`), the last measurement (`train_loss`,
    `validation_loss`, `gradient_norm` ...), `segment`, `compute` spent so far, and at the end `finish_reason`.

    ## Version History
    - v0: first release.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        data: str | Sequence[Mapping[str, Any]] | None = None,
        *,
        run: TrainingRun | None = None,
        segments: int = 5,
        multipliers: Sequence[float] | Mapping[str, Sequence[float]] = MULTIPLIERS,
        optimizers: Sequence[str] = (),
        batch_factors: Sequence[float] = (1.0,),
        stop: bool = False,
        compute_price: float = 0.0,
        order_seed: int | None = 0,
        render_mode: str | None = None,
        **run_arguments: Any,
    ):
        check_whole("segments", segments, 1)
        check_number("compute_price", compute_price, 0)
        check_seed(order_seed, LARGEST_ORDER_SEED)
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode must be 'ansi' or None, got {shown(render_mode)}")
        if run is None:
            run = _supervised_run({**run_arguments, **({} if data is None else {"data": data})})
        elif run_arguments or data is not None:
            given = ", ".join([*run_arguments, *([] if data is None else ["data"])])
            raise ConfigError(f"run is given already; these belong to a supervised run: {given}")
        elif not isinstance(run, TrainingRun):
            raise ConfigError(f"run must have settings, begin and train (TrainingRun), got {shown(run)}")
        self.run, self.segments, self.order_seed = run, segments, order_seed
        self.compute_price, self.render_mode = float(compute_price), render_mode
        start = run.settings
        names = check_optimizers(optimizers, start, getattr(run, "optimizers", ()))
        self.changes = all_changes(start, multipliers, names, batch_factors, stop=stop)
        self.columns = ObservationColumns(tuple(start.dials), names)
        self.observation_space = self.columns.space
        self.action_space = gymnasium.spaces.Discrete(len(self.changes))
        self._episode: EpisodeState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode at the run's start. There are no options."""
        super().reset(seed=check_seed(seed))
        if options:
            raise ConfigError(f"this environment has no reset options, got {shown(options)}")
        order_seed = self.order_seed
        if order_seed is None:
            order_seed = int(self.np_random.integers(LARGEST_ORDER_SEED))
        measured = _checked(self.run.begin(order_seed))
        self._episode = EpisodeState(self.run.settings, measured, measured, 0, 0.0, "")
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Change the settings, train one segment, and say how much better the run is."""
        episode = self._going_on()
        change = self._change(action)
        if change.stop:
            self._episode = episode._replace(before=episode.now, finish_reason="stop")
            return self._observation(), 0.0, True, False, self._info()
        settings = change.applied(episode.settings, self.run.settings)
        # Nothing is kept of a segment that raises, so the episode is over where it does: the weights have changed.
        self._episode = None
        now = _checked(self.run.train(settings))
        compute = settings.batch_size / self.run.settings.batch_size if self.run.settings.batch_size else 1.0
        segment = episode.segment + 1
        reason = "diverged" if now.diverged else "budget" if segment == self.segments else ""
        self._episode = EpisodeState(settings, episode.now, now, segment, episode.spent + compute, reason)
        reward = now.score - episode.now.score - self.compute_price * compute
        return self._observation(), reward, bool(reason), False, self._info()

    def snapshot(self) -> EnvSnapshot:
        """Copy the episode with its run. Raises ConfigError for a run that cannot be copied."""
        return EnvSnapshot(self._begun(), self._snapshot_run().snapshot(), self.segments, self.columns.names)

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go back to a snapshot, bit for bit.

        Raises ModelError, and changes nothing, where it is of another run, or of an environment whose episodes are
        longer or shorter or whose observations have other columns.
        """
        if not isinstance(snapshot, EnvSnapshot):
            raise ModelError(
                f"restore takes what `snapshot` of an environment gives, got {type(snapshot).__name__}. To begin "
                "episodes from the Snapshot of a run, make the environment with start="
            )
        for what, theirs, ours in (
            ("segments", snapshot.segments, self.segments),
            ("columns", snapshot.columns, self.columns.names),
        ):
            if theirs != ours:
                raise ModelError(f"this is a snapshot of an environment with other {what}: {theirs}, and here {ours}")
        self._snapshot_run().restore(snapshot.run)
        self._episode = snapshot.episode

    def render(self) -> str | None:  # type: ignore[override]  # Gymnasium's is generic in what it renders
        """Return a line that says how the run goes; None without a render mode."""
        if self.render_mode is None:
            return None
        episode = self._begun()
        dials = "  ".join(f"{name} {value:.3g}" for name, value in episode.settings.dials.items())
        return (
            f"segment {episode.segment}/{self.segments}  {dials}  train loss {episode.now.train_loss:.4f}  "
            f"validation loss {episode.now.validation_loss:.4f}  {episode.finish_reason}"
        ).rstrip()

    def _change(self, action: Any) -> Change:
        number = np.asarray(action)
        if number.shape != () or number.dtype.kind not in "iu" or not 0 <= number < len(self.changes):
            raise InvalidAction(f"an action is a whole number in [0, {len(self.changes)}), got {shown(action)}")
        return self.changes[int(number)]

    def _begun(self) -> EpisodeState:
        if self._episode is None:
            raise ResetNeeded("there is no episode: call reset first")
        return self._episode

    def _going_on(self) -> EpisodeState:
        episode = self._begun()
        if episode.finish_reason:
            raise ResetNeeded(f"the episode has ended ({episode.finish_reason}): call reset")
        return episode

    def _snapshot_run(self) -> SnapshotRun:
        if not isinstance(self.run, SnapshotRun):
            raise ConfigError(f"{type(self.run).__name__} has no snapshots: it can be started anew, and not put back")
        return self.run

    def _observation(self) -> np.ndarray:
        episode = self._begun()
        used = episode.segment / self.segments
        return self.columns.vector(episode.settings, self.run.settings, episode.before, episode.now, used)

    def _info(self) -> dict[str, Any]:
        episode = self._begun()
        known: dict[str, Any] = {
            **episode.settings.dials,
            "optimizer": episode.settings.optimizer,
            "batch_size": episode.settings.batch_size,
            **episode.now._asdict(),
            "segment": episode.segment,
            "compute": episode.spent,
        }
        return {**known, "finish_reason": episode.finish_reason} if episode.finish_reason else known


def _checked(measured: Measurement) -> Measurement:
    """Raise TrainingDiverged for a score that no agent could learn from."""
    if not math.isfinite(measured.score):
        raise TrainingDiverged(
            f"the training run's score is {measured.score}: a run that diverges must say so (diverged=True), with a "
            "finite score that is worse than any other"
        )
    return measured


def _supervised_run(arguments: dict[str, Any]) -> TrainingRun:
    from textrl_env.finetune.supervised_run import SupervisedRun

    known = list(inspect.signature(SupervisedRun).parameters)
    for name in arguments:
        if name not in known:
            own = [name for name in inspect.signature(FineTuneEnv).parameters if name not in ("run_arguments", "data")]
            raise UnknownArgument("argument of the fine-tuning environment", name, [*own, *known])
    return SupervisedRun(**arguments)
