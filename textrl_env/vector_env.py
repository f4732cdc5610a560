"""The natively batched environment: N episodes, one model call for all of them, no subprocess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from textrl_env.actions import parse_actions
from textrl_env.env import TextGenEnv, choose_prompt, observation_space, step_info
from textrl_env.errors import ConfigError, ResetNeeded
from textrl_env.foreign_text import shown
from textrl_env.kl import KLPenalty
from textrl_env.mdp import TokenMDP, Transition, check_limit
from textrl_env.prompt_groups import PromptGroups, restored_generator
from textrl_env.tasks.assembly import assemble


class TextGenVectorEnv(gymnasium.vector.VectorEnv):
    """`TextGenEnv` for `num_envs` rows; the same arguments, observations, rewards and infos.

    Row i with seed s is the single environment with seed s + i. `autoreset_mode` is NEXT_STEP (Gymnasium's default: the
    step after an end ignores its action and returns the next prompt) or SAME_STEP (the ending step already returns
    it, and the last observation and info are in `infos["final_obs"]` and `infos["final_info"]`).

    group_size: above 1, each prompt is given to that many rows, one after the other as they become free, and the info
    of an episode's end has the number of its `group`. One generator, of the first row's seed, then draws all prompts.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: Any = "sentiment",
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        render_mode: str | None = None,
        **arguments: Any,
    ):
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or not 1 <= num_envs < 2**31:
            raise ConfigError(f"num_envs must be a whole number >= 1, got {shown(num_envs)}")
        if render_mode is not None:
            raise ConfigError("the vector environment has no render_mode; render a single TextGenEnv instead")
        check_limit("group_size", group_size)
        self.autoreset_mode = _supported(autoreset_mode)
        self.task, self.rules, self.prompts, self.model_name = assemble(task, **arguments)
        self.num_envs = int(num_envs)
        self.single_observation_space = observation_space(self.rules)
        self.single_action_space = gymnasium.spaces.Discrete(self.rules.vocabulary.size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**TextGenEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = None
        self.transition: Transition | None = None  # the last step, unbatched: what adapters read
        self._mdp = TokenMDP(self.rules, self.num_envs)
        self._generators = [np.random.default_rng() for _ in range(self.num_envs)]
        self._groups = PromptGroups(self.prompts, int(group_size)) if group_size > 1 else None
        self._awaiting_reset = np.ones(self.num_envs, dtype=bool)

    @property
    def kl_penalty(self) -> KLPenalty:
        """Scores whole episodes against the reference; holds the coefficient."""
        return self.rules.kl_penalty

    @property
    def group_size(self) -> int:
        """Responses to each prompt."""
        return 1 if self._groups is None else self._groups.size

    @property
    def kl_coefs(self) -> np.ndarray:
        """float64 [N]: the KL coefficient of each row's current episode."""
        return self._mdp.kl_coefs

    @property
    def tokenizer(self) -> Any:
        return self.rules.tokenizer

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all rows. seed: one number (row i gets seed + i) or one a row.

        options: `{"prompt": [...]}` or `{"prompt_index": [...]}`, one a row, choose the prompts; not with groups.
        """
        seeds = _per_row(seed, self.num_envs, "seed", add_row=True)
        chosen = {
            key: _per_row(options[key], self.num_envs, key)
            for key in ("prompt", "prompt_index", "columns")
            if options and key in options
        }
        if chosen and self._groups is not None:
            raise ConfigError(
                f"with group_size={self.group_size} prompts are served in groups: give no {min(chosen)!r}"
            )
        for row, row_seed in enumerate(seeds):
            if row_seed is not None:
                self._generators[row] = gymnasium.utils.seeding.np_random(row_seed)[0]
        if self._groups is not None:
            if seeds[0] is not None:
                self._groups.generator = gymnasium.utils.seeding.np_random(seeds[0])[0]
            self._groups.start()
        self._start(
            np.arange(self.num_envs),
            [{key: values[row] for key, values in chosen.items()} for row in range(self.num_envs)],
        )
        self.transition = None
        return self._mdp.ids.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self._mdp.prompts[0] is None:
            raise ResetNeeded("call reset() before the first step()")
        live = ~self._awaiting_reset
        parsed = parse_actions(actions, self.num_envs, self.rules.vocabulary.size)
        transition = self.transition = self._mdp.step(parsed, live)
        if not live.all():
            self._start(np.flatnonzero(self._awaiting_reset))
        infos: dict[str, Any] = {
            "ref_log_prob": transition.ref_log_probs.copy(),
            "_ref_log_prob": live.copy(),
            "kl": transition.kl.copy(),
            "_kl": live.copy(),
        }
        self._awaiting_reset = transition.terminated.copy()
        if transition.episodes:
            infos = self._report_ends(transition, infos)
        truncated = np.zeros(self.num_envs, dtype=bool)
        return self._mdp.ids.copy(), transition.rewards, transition.terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, besides the arguments: arrays, numbers and text, no objects."""
        return {
            "rows": self._mdp.state_dict(),
            "awaiting_reset": self._awaiting_reset.copy(),
            "generators": [generator.bit_generator.state for generator in self._generators],
            "kl_coef": self.kl_penalty.coef,
            "groups": None if self._groups is None else self._groups.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in an environment of the same arguments. Raises ConfigError."""
        self._mdp.load_state_dict(state["rows"], self.prompts)
        self._awaiting_reset[...] = state["awaiting_reset"]
        for row, generator_state in enumerate(state["generators"]):
            self._generators[row] = restored_generator(generator_state)
        if self._groups is not None:
            self._groups.load_state_dict(state["groups"])
        self.kl_penalty.controller.value = float(state["kl_coef"])
        self.transition = None

    def _report_ends(self, transition: Transition, infos: dict[str, Any]) -> dict[str, Any]:
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            for row, episode in transition.episodes:
                infos = self._add_info(infos, episode.info(), row)
            return infos
        ended = np.flatnonzero(transition.terminated)
        final: dict[str, Any] = {}
        for row in ended.tolist():
            final = self._add_info(
                final,
                {"final_obs": self._mdp.ids[row].copy(), "final_info": step_info(transition, row)},
                row,
            )
            # As in Gymnasium, what is left outside final_info belongs to the new episode's reset.
            for key in ("ref_log_prob", "kl"):
                infos[key][row], infos[f"_{key}"][row] = 0.0, False
        self._start(ended)
        return {**infos, **final}

    def _start(self, rows: np.ndarray, options: Sequence[dict[str, Any]] | None = None) -> None:
        if self._groups is not None:
            served = [self._groups.next() for _ in rows]
            self._mdp.reset_rows(rows, [prompt for prompt, _ in served], [group for _, group in served])
        else:
            prompts = [
                choose_prompt(self.prompts, self._generators[row], options[place] if options else None)
                for place, row in enumerate(rows.tolist())
            ]
            self._mdp.reset_rows(rows, prompts)
        self._awaiting_reset[rows] = False


def _supported(mode: AutoresetMode | str) -> AutoresetMode:
    supported = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
    for candidate in supported:
        if mode in (candidate, candidate.value, candidate.name):
            return candidate
    names = " or ".join(candidate.name for candidate in supported)
    raise ConfigError(f"autoreset_mode must be {names}, got {mode!r}")


def _per_row(value: Any, count: int, name: str, *, add_row: bool = False) -> list[Any]:
    if value is None:
        return [None] * count
    if add_row and isinstance(value, (int, np.integer)):
        return [int(value) + row for row in range(count)]
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        raise ConfigError(f"{name} must hold one entry for each of the {count} rows, got {value!r}")
    return list(value)
