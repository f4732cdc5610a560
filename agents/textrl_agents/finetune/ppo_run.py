"""PPO itself as the run that is steered: stock SB3 PPO on a task whose optimum is known."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import FloatSchedule

from textrl_agents.sb3 import make_agent
from textrl_agents.training.random_state import random_state, seed_all, set_random_state
from textrl_env.errors import TrainingDiverged
from textrl_env.finetune.training_run import LEARNING_RATE, Measurement, Settings
from textrl_env.kl import FixedKL
from textrl_env.tasks.assembly import assemble
from textrl_env.tasks.enumeration import ExactValue
from textrl_env.user_values import check_names, check_number, check_whole

LEAST_SHARE = -1.0
"""A policy may be worse than the reference without bound; what is worse than this counts as this."""
TASKS = ("exact", "exact_turns")
KL_COEF, CLIP_RANGE = "kl_coef", "clip_range"


class PPORun:
    """Stock SB3 PPO, steered by learning rate, KL coefficient and clip range. The score is its share of the optimum.

    task: "exact" or "exact_turns". rollouts: of a segment, each with an update. learning_rate, kl_coef, clip_range: at
        the start. arguments: others of `make_agent`, such as `n_envs` and `n_steps`.

    The share is that of the policy's exact value under the task's own KL coefficient, whatever the run is charged: 0 is
    the reference and 1 the best there is; below `LEAST_SHARE` it counts as that. The validation loss is 1 less the
    share, the train loss SB3's of the last update, and the gradient's norm that of the segment's updates as SB3 has
    clipped them. An update that cannot be made (TrainingDiverged) is a divergence, and its share `LEAST_SHARE`.

    The run has random generators of its own: those of the process, which an agent that steers it draws from, are put
    back after each call.
    """

    def __init__(
        self,
        task: str = "exact",
        *,
        rollouts: int = 3,
        learning_rate: float = 1e-4,
        kl_coef: float = 0.5,
        clip_range: float = 0.1,
        arguments: Mapping[str, Any] | None = None,
    ):
        check_names("task with a known optimum", [task], TASKS)
        check_whole("rollouts", rollouts, 1)
        for name, value in ((LEARNING_RATE, learning_rate), (KL_COEF, kl_coef), (CLIP_RANGE, clip_range)):
            check_number(name, value, 0, above=True)
        self.task, self.rollouts = task, rollouts
        self.settings = Settings({LEARNING_RATE: learning_rate, KL_COEF: kl_coef, CLIP_RANGE: clip_range})
        self._arguments = {"n_envs": 128, "n_steps": 20, "batch_size": 640, "device": "cpu", **(arguments or {})}
        parts = assemble(task=task, device="cpu")
        self._exact = ExactValue(parts.rules, parts.prompts)
        self._agent: Any = None
        self._random: dict[str, Any] = {}
        self._norms: list[float] = []

    def begin(self, order_seed: int) -> Measurement:
        """Make a new agent. order_seed: of its samples and minibatches."""
        self._norms.clear()
        with self._own_random(order_seed):
            dials = self.settings.dials
            self._agent = make_agent(
                "ppo",
                env_kwargs={"task": self.task, "device": "cpu", "kl_coef": dials[KL_COEF]},
                seed=order_seed,
                progress=False,
                learning_rate=dials[LEARNING_RATE],
                clip_range=dials[CLIP_RANGE],
                **self._arguments,
            )
            self._agent.set_logger(Logger(folder=None, output_formats=[]))
            self._agent.policy.optimizer.register_step_pre_hook(self._note_norm)
            return self._judged()

    def train(self, settings: Settings) -> Measurement:
        """Run and learn from `rollouts` rollouts."""
        agent = self._agent
        agent.lr_schedule = FloatSchedule(settings.dials[LEARNING_RATE])
        agent.clip_range = FloatSchedule(settings.dials[CLIP_RANGE])
        agent.env.env.kl_penalty.controller = FixedKL(settings.dials[KL_COEF])
        self._norms.clear()
        with self._own_random():
            try:
                agent.learn(self.rollouts * agent.n_steps * agent.n_envs, reset_num_timesteps=False)
            except TrainingDiverged:
                return Measurement(LEAST_SHARE, 0.0, 1 - LEAST_SHARE, 0.0, diverged=True)
            return self._judged()

    def _judged(self) -> Measurement:
        share = self._exact.normalized(self._agent.policy.actor_critic)
        loss = float(self._agent.logger.name_to_value.get("train/loss", 0.0))
        norm = sum(self._norms) / max(len(self._norms), 1)
        if not math.isfinite(share):
            return Measurement(LEAST_SHARE, 0.0, 1 - LEAST_SHARE, 0.0, diverged=True)
        share = max(share, LEAST_SHARE)
        return Measurement(share, loss, 1 - share, norm)

    def _note_norm(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    @contextlib.contextmanager
    def _own_random(self, seed: int | None = None) -> Iterator[None]:
        """Draw from this run's own generators, begun anew where a seed is given."""
        outside = random_state()
        try:
            if seed is None:
                set_random_state(self._random)
            else:
                seed_all(seed)
            yield
            self._random = random_state()
        finally:
            set_random_state(outside)
