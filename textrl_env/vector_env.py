"""The natively batched environment: N episodes, one model call for all of them, no subprocess."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from textrl_env.actions import ParsedActions, parse_actions
from textrl_env.arguments import EnvArguments
from textrl_env.assembled import AssembledEnv
from textrl_env.env import RESET_OPTIONS, TextGenEnv, check_options, choose_prompt, observation_space, step_info
from textrl_env.errors import ConfigError, ResetNeeded
from textrl_env.foreign_text import shown
from textrl_env.mdp import TokenMDP, Transition
from textrl_env.rewards.protocol import load_state_of, state_of
from textrl_env.tasks.task import Task
from textrl_env.text.prompts import PromptGroups, restored_generator
from textrl_env.user_values import check_seed, check_whole


class TextGenVectorEnv(AssembledEnv, gymnasium.vector.VectorEnv[np.ndarray, Any, np.ndarray]):
    """`TextGenEnv` for `num_envs` rows; the same arguments, observations, rewards and infos.

    Row i with seed s is the single environment with seed s + i. `autoreset_mode` is NEXT_STEP (Gymnasium's default: the
    step after an end ignores its action and returns the next prompt), SAME_STEP (the ending step already returns it,
    and the last observation and info are in `infos["final_obs"]` and `infos["final_info"]`) or DISABLED (rows that have
    ended wait for `reset(options={"reset_mask": mask})`).

    Numbers in infos are in arrays of their own type. Text is in arrays of objects, which Gymnasium's NumpyToTorch
    cannot convert: put `gymnasium.wrappers.vector.DictInfoToList` between them.

    max_episode_steps: tokens after which an episode is `truncated`, as by Gymnasium's TimeLimit around the single
    environment: no score is paid there, and `info` has none of the keys of an episode's end. None or -1 for no limit.

    `settle_scores` of `score_mode="deferred"` asks for the responses of all rows, in the order of their steps and rows.

    group_size: above 1, each prompt is given to that many rows, one after the other as they become free, and the info
    of an episode's end has the number of its `group`. One generator, of the first row's seed, then draws all prompts.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str | Task = "sentiment",
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **arguments: Unpack[EnvArguments],
    ):
        check_whole("num_envs", num_envs, 1, 2**31 - 1)
        if render_mode is not None:
            raise ConfigError("the vector environment has no render_mode; render a single TextGenEnv instead")
        check_whole("group_size", group_size, 1)
        # -1 is "no limit" for gymnasium.make too.
        self.max_episode_steps = None if max_episode_steps == -1 else max_episode_steps
        if self.max_episode_steps is not None:
            check_whole("max_episode_steps", self.max_episode_steps, 1)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.num_envs, self.group_size = int(num_envs), int(group_size)
        self._arguments = {"task": task, **arguments}
        self._assemble()
        self.single_observation_space = observation_space(self.rules)
        self.single_action_space = gymnasium.spaces.Discrete(self.rules.vocabulary.size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**TextGenEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = None
        self.transition: Transition | None = None  # the last step, unbatched: what adapters read
        self._generators = [np.random.default_rng() for _ in range(self.num_envs)]
        self._awaiting_reset = np.ones(self.num_envs, dtype=bool)
        # A step's tokens int64 [N], and what it did, until the rows that begin anew have done so too.
        self._unfinished: tuple[np.ndarray, Transition] | None = None

    def _assemble(self) -> None:
        super()._assemble()
        self._mdp = TokenMDP(self.rules, self.num_envs, self.max_episode_steps)
        self._groups = PromptGroups(self.prompts, self.group_size) if self.group_size > 1 else None

    @property
    def kl_coefs(self) -> np.ndarray:
        """float64 [N]: the KL coefficient of each row's current episode."""
        return self._mdp.kl_coefs

    @property
    def defers_scores(self) -> bool:
        """Whether the responses that end from now on wait for `settle_scores`; an adapter may turn it off and on.

        True at first where `score_mode` is "deferred".
        """
        return self._mdp.scores_later

    @defers_scores.setter
    def defers_scores(self, deferred: bool) -> None:
        self._mdp.scores_later = deferred

    def action_masks(self) -> np.ndarray:
        """bool [N, V]: the ids that the tokenizer knows, the same in every row."""
        return np.tile(self.rules.vocabulary.known, (self.num_envs, 1))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all rows. seed: one number (row i gets seed + i) or one a row.

        options: `{"prompt": [...]}` or `{"prompt_index": [...]}`, one a row, choose the prompts; not with groups.
            `{"reset_mask": mask}`, bool [N], starts these rows alone and leaves the others as they are.
        """
        check_options(options, (*RESET_OPTIONS, "reset_mask"))
        seeds = [check_seed(row_seed) for row_seed in _per_row(seed, self.num_envs, "seed", add_row=True)]
        chosen = {
            key: _per_row(options[key], self.num_envs, key) for key in RESET_OPTIONS if options and key in options
        }
        rows = _masked_rows((options or {}).get("reset_mask"), self.num_envs)
        if self._groups is not None and (chosen or len(rows) < self.num_envs):
            raise ConfigError(
                f"with group_size={self.group_size} prompts are served in groups: give no "
                f"{min(chosen, default='reset_mask')!r}"
            )
        if self._mdp.prompts[0] is None and len(rows) < self.num_envs:
            raise ResetNeeded("call reset() of all rows before one with a reset_mask")
        for row in rows.tolist():
            if seeds[row] is not None:
                self._generators[row] = gymnasium.utils.seeding.np_random(seeds[row])[0]
        if self._groups is not None:
            if seeds[0] is not None:
                self._groups.generator = gymnasium.utils.seeding.np_random(seeds[0])[0]
            self._groups.start()
        self._start(rows, [{key: values[row] for key, values in chosen.items()} for row in rows.tolist()])
        self.transition = self._unfinished = None
        return self._mdp.ids.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Append a token to each row; observations int64 [N, max_length], rewards float64 [N], flags bool [N], infos.

        actions: token ids [N], rows `[token, log_prob]` [N, 2], or TokenActions. Raises as the single environment does.
        Where a turn environment fails to begin the next episode, the same step may be repeated: nothing is done twice.
        """
        if self._mdp.prompts[0] is None:
            raise ResetNeeded("call reset() before the first step()")
        disabled = self.autoreset_mode is AutoresetMode.DISABLED
        live = np.ones(self.num_envs, dtype=bool) if disabled else ~self._awaiting_reset
        parsed = parse_actions(actions, self.num_envs, self.rules.vocabulary.size, ignored=~live)
        transition = self.transition = self._carried_out(parsed, live)
        if not live.all():
            self._start(np.flatnonzero(self._awaiting_reset))
        infos: dict[str, Any] = {
            "ref_log_prob": transition.ref_log_probs.copy(),
            "_ref_log_prob": live.copy(),
            "kl": transition.kl.copy(),
            "_kl": live.copy(),
        }
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            going_on = [(row, turn) for row, turn in transition.turns if self._mdp.running[row]]
        else:
            going_on = transition.turns
        for row, turn in going_on:
            infos = self._add_info(infos, {"turn": turn}, row)
        ended = transition.terminated | transition.truncated
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._awaiting_reset = ended
        if ended.any():
            infos = self._report_ends(transition, infos)
        self._unfinished = None
        # The transition stays as it was: what is returned is the caller's own.
        returned = (transition.rewards.copy(), transition.terminated.copy(), transition.truncated.copy())
        return self._mdp.ids.copy(), *returned, infos

    def upcoming_prompts(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Ids int64 [p] of the prompts that `rows` show next, were they to end in this order; draws none.

        A row that is named twice ends twice. An empty list where a turn environment is yet to write them.
        """
        if self.rules.turns is not None:
            return []
        if self._groups is not None:
            groups = copy.copy(self._groups)
            groups.generator = copy.deepcopy(groups.generator)
            return [groups.next()[0].ids for _ in rows]
        generators = {row: copy.deepcopy(self._generators[row]) for row in set(rows)}
        return [self.prompts.sample(generators[row]).ids for row in rows]

    def close_extras(self, **kwargs: Any) -> None:
        """Stop asking for scores in threads, and close the turn environments."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, besides the arguments: arrays, numbers and text, no objects."""
        return {
            "rows": self._mdp.state_dict(),
            "awaiting_reset": self._awaiting_reset.copy(),
            "generators": [generator.bit_generator.state for generator in self._generators],
            "kl_coef": self.kl_penalty.coef,
            "groups": None if self._groups is None else self._groups.state_dict(),
            "reward": state_of(self.rules.reward),
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
        load_state_of(self.rules.reward, state.get("reward", {}))  # an older checkpoint has none
        self.transition = self._unfinished = None

    def _carried_out(self, actions: ParsedActions, live: np.ndarray) -> Transition:
        """Step the rows where `live`, bool [N], unless an earlier try did: its next episodes alone failed to begin.

        Raises ResetNeeded where that one had other tokens.
        """
        if self._unfinished is None:
            self._unfinished = actions.tokens.copy(), self._mdp.step(actions, live)
        elif not np.array_equal(self._unfinished[0][live], actions.tokens[live]):
            raise ResetNeeded(
                "a turn environment failed to begin an episode, after these tokens were appended: "
                f"{shown(self._unfinished[0][live].tolist())}. Repeat that step with the same tokens, or call reset()"
            )
        return self._unfinished[1]

    def _report_ends(self, transition: Transition, infos: dict[str, Any]) -> dict[str, Any]:
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            for row, episode in transition.episodes:
                infos = self._add_info(infos, episode.info(), row)
            return infos
        ended = np.flatnonzero(transition.terminated | transition.truncated)
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
            self._start_in_groups(self._groups, rows)
        else:
            prompts = [
                choose_prompt(self.prompts, self._generators[row], options[place] if options else None)
                for place, row in enumerate(rows.tolist())
            ]
            self._mdp.reset_rows(rows, prompts)
        self._awaiting_reset[rows] = False

    def _start_in_groups(self, groups: PromptGroups, rows: np.ndarray) -> None:
        before = None if self.rules.turns is None else groups.state_dict()
        served = [groups.next() for _ in rows]
        try:
            self._mdp.reset_rows(rows, [prompt for prompt, _ in served], [group for _, group in served])
        except BaseException:
            if before is not None:  # else a group would lack the rows that did not begin
                groups.load_state_dict(before)
            raise


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    for candidate in AutoresetMode:
        if mode in (candidate, candidate.value, candidate.name):
            return candidate
    names = ", ".join(candidate.name for candidate in AutoresetMode)
    raise ConfigError(f"autoreset_mode must be one of {names}, got {mode!r}")


def _masked_rows(mask: Any, count: int) -> np.ndarray:
    """int64 [n], the rows that `mask` names; all where there is none."""
    if mask is None:
        return np.arange(count)
    if not isinstance(mask, np.ndarray) or mask.shape != (count,) or mask.dtype != np.bool_ or not mask.any():
        raise ConfigError(f"reset_mask must be a NumPy array, bool [{count}], with a True in it; got {mask!r}")
    return np.flatnonzero(mask)


def _per_row(value: Any, count: int, name: str, *, add_row: bool = False) -> list[Any]:
    if value is None:
        return [None] * count
    if add_row and isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return [int(value) + row for row in range(count)]
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        raise ConfigError(f"{name} must hold one entry for each of the {count} rows, got {value!r}")
    return list(value)
