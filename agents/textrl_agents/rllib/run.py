"""One training run with RLlib: of a `TrainConfig`, evaluated and saved, or of a cell of the benchmark."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.evaluation.heldout_env import heldout_env
from textrl_agents.rllib.checkpoint import capture, load_checkpoint, save_checkpoint
from textrl_agents.rllib.config import make_config, rllib_algorithm
from textrl_agents.rllib.ray_session import ray_session
from textrl_agents.rllib.results import policy_of, tokens_sampled, training_metrics
from textrl_agents.runs.config import N_ENVS, TrainConfig
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.training.terminal import TrainingProgress, errors_only
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, RewardError, StepError
from textrl_env.models import CausalLMActorCritic
from textrl_env.user_values import DECODERS

# Settings of the algorithm that the run decides.
_DECIDED = ("seed", "num_envs_per_env_runner", "log_level", "optimizer")


class RLlibRun:
    """An algorithm, built and ready to learn. Building it starts Ray and writes nothing; `close` stops it.

    `config.algorithm` holds settings of RLlib's AlgorithmConfig by name, and `ray`, arguments of `ray_session` (such as
    the `address` of a cluster).
    """

    memory_settings: tuple[str, ...] = (
        "algorithm.minibatch_size",
        "n_envs",
        "algorithm.rollout_fragment_length",
        "env.max_new_tokens",
    )

    def __init__(self, config: TrainConfig):
        self.config = config
        self._open = contextlib.ExitStack()
        with self._open:
            self.algorithm = self._build()
            self._eval_env = self._make_eval_env() if config.eval_episodes else None
            self._open = self._open.pop_all()  # nothing failed: kept until `close`
        self.evaluations: RunEvaluations | None = None
        self.timesteps = 0  # tokens that the weights have been trained on
        self._state: dict[str, Any] | None = None  # of the last boundary
        self._weights: Any = None
        self._saved_at = -1

    def _build(self) -> Any:
        config = self.config
        settings = dict(config.algorithm)
        ray_arguments = settings.pop("ray", None) or {}
        if not isinstance(ray_arguments, dict):
            raise ConfigError(f"algorithm.ray takes arguments of Ray, such as {{num_cpus: 2}}; got {ray_arguments!r}")
        for name in _DECIDED:
            if name in settings:
                raise ConfigError(f"algorithm.{name} is decided by the run; there is a setting for it outside")
        if config.decoder != DECODERS[0]:
            settings["actor_critic"] = {**(settings.get("actor_critic") or {}), "decoder": config.decoder}
        for logger in ("ray", "ray.rllib"):  # the second has a level of its own
            self._open.enter_context(errors_only(logger))
        algorithm_config = make_config(
            config.algo,
            config.env_arguments(),
            total_timesteps=config.timesteps,
            optimizer=config.optimizer,
            num_envs_per_env_runner=config.n_envs or N_ENVS,
            seed=config.seed,
            log_level="ERROR",
            **settings,
        )
        self._open.enter_context(ray_session(**ray_arguments))
        algorithm = algorithm_config.build_algo()
        self._open.callback(_remove_empty, algorithm.logdir)
        self._open.callback(algorithm.stop)
        return algorithm

    def _make_eval_env(self) -> TextGenVectorEnv:
        config = self.config
        policy = self.actor_critic if config.lora is not None else None
        return heldout_env(config.env_arguments(), episodes=config.eval_episodes, policy=policy)

    @property
    def actor_critic(self) -> CausalLMActorCritic:
        return policy_of(self.algorithm)

    @property
    def rollout_tokens(self) -> int | None:
        config = self.algorithm.config
        if rllib_algorithm(self.config.algo).asynchronous:
            return None
        return int(config.train_batch_size_per_learner * max(1, config.num_learners))

    def start(self, run: RunFolder, checkpoint: Path | None = None) -> None:
        """Log into `run`, and go where `checkpoint` was saved. Raises ModelError where it is broken."""
        self.run, self.resumed = run, checkpoint is not None
        self._log = MetricsFile(run.metrics)
        if checkpoint is not None:
            self.timesteps = self._saved_at = load_checkpoint(self.algorithm, checkpoint)

    def learn(
        self, *, progress: TrainingProgress | None = None, stop_requested: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train to `config.timesteps`; False where `stop_requested` ended it early. Call `start` first."""
        config, progress = self.config, progress or TrainingProgress(enabled=False)
        if self._eval_env is not None:
            evaluated_at = self.timesteps if self.resumed else None
            self.evaluations = RunEvaluations(
                config, self._eval_env, self.run, progress=progress, evaluated_at=evaluated_at
            )
        progress.start(self.timesteps, config.timesteps)
        started, first, before = time.monotonic(), self.timesteps, self.timesteps
        # What an earlier sitting logged after the checkpoint is logged again: TensorBoard shows the new alone.
        purge_step = self.timesteps + 1 if self.resumed else 0
        with SummaryWriter(str(self.run.path), purge_step=purge_step) as self._board:
            while True:
                done, stopped = self.timesteps >= config.timesteps, stop_requested()
                self._at_boundary(before, done=done, stopped=stopped)
                if done or stopped:
                    progress.advance(self.timesteps, show=True)
                    return done
                before = self.timesteps
                result = self.algorithm.train()
                self.timesteps = tokens_sampled(result)
                metrics = training_metrics(result)
                progress.advance(self.timesteps)
                if "objective/scores" in metrics:
                    progress.measured(metrics["objective/scores"], metrics["objective/kl"])
                elapsed = time.monotonic() - started
                fps = int((self.timesteps - first) / max(elapsed, 1e-9))
                self._write({**metrics, "time/fps": fps, "time/time_elapsed": int(elapsed)})

    def _at_boundary(self, before: int, *, done: bool, stopped: bool) -> None:
        """Evaluate and save what is due between two iterations, the last of which began at `before` tokens."""
        self._state, self._weights = capture(self.algorithm), self._weights_version()
        evaluations, every = self.evaluations, self.config.save_every or 0
        if evaluations is not None and not stopped and (done or evaluations.due(self.timesteps, before)):
            # The learners may have adapted their coefficient. Validation shares the controller.
            penalty = evaluations.heldout.kl_penalty
            penalty.controller.value = self._state["accounts"].get("kl_coef", penalty.coef)
            self._write(evaluations.run(self.actor_critic, self.timesteps, done=done))
        if done or stopped or (every and self.timesteps // every > before // every):
            self.save()

    def save(self) -> Path:
        """Write the last boundary, unless it was written already, and remove what is too old; returns its folder."""
        folder = self.run.checkpoint(self.timesteps)
        if self._saved_at != self.timesteps:
            save_checkpoint(self.algorithm, folder, self._state, settings=self.config.settings_copy())
            self._saved_at = self.timesteps
        self.run.prune(self.config.keep_checkpoints)
        return folder

    def save_after_error(self, error: BaseException) -> Path | None:
        """Save the last boundary if the weights are still its own, which only a learner in this process can tell."""
        sampling = isinstance(error, (RewardError, StepError, KeyboardInterrupt))
        if self._state is None or not sampling or self._weights is None or self._weights != self._weights_version():
            return None
        return self.save()

    def close(self) -> None:
        """Stop the algorithm and, where this run has started it, Ray."""
        self._open.close()

    def _weights_version(self) -> Any:
        """Changes with every update; None where the learners are in other processes."""
        group = self.algorithm.learner_group
        return policy_of(self.algorithm).lm.weights_version() if group.is_local else None

    def _write(self, metrics: dict[str, float]) -> None:
        self._log.add(self.timesteps, metrics)
        for name, value in metrics.items():
            self._board.add_scalar(name, value, self.timesteps)


def _remove_empty(folder: str) -> None:
    """Remove the log folder that RLlib creates in the home directory; this run logs elsewhere."""
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


def train_cell(cell: Cell, record: Record) -> Trained:
    """Train `make_config(...)` with `cell.settings`; the last batch begins within the budget."""
    tokens = 0
    with errors_only("ray"), errors_only("ray.rllib"), ray_session():
        config = make_config(
            cell.algorithm,
            cell.env_arguments,
            total_timesteps=cell.budget,
            seed=cell.seed,
            log_level="ERROR",
            **cell.settings,
        )
        algorithm = config.build_algo()
        try:
            while tokens < cell.budget:
                result = algorithm.train()
                tokens, metrics = tokens_sampled(result), training_metrics(result)
                if "objective/scores" in metrics:
                    length = metrics["rollout/ep_len_mean"]
                    record(tokens, score=metrics["objective/scores"], kl=metrics["objective/kl"], length=length)
            return Trained(policy_of(algorithm), tokens=tokens)
        finally:
            algorithm.stop()
