"""The single environment: one episode at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium
import numpy as np

from textrl_env.actions import TokenAction, parse_action
from textrl_env.arguments import EnvArguments
from textrl_env.assembled import AssembledEnv
from textrl_env.errors import ConfigError, PromptError, ResetNeeded
from textrl_env.foreign_text import shown
from textrl_env.mdp import TokenMDP, Transition
from textrl_env.rules import EpisodeRules
from textrl_env.tasks.task import Task
from textrl_env.text.prompts import Prompt, PromptSet
from textrl_env.text.rendering import RENDER_MODES, Renderer
from textrl_env.user_values import check_names, check_seed

RESET_OPTIONS = ("prompt", "prompt_index", "columns")


class Unknown(np.float64):
    """NaN that equals itself: infos of equal episodes must compare equal, and Gymnasium's checker compares by `==`.

    A NumPy number, so vector environments collect it in a float array; once pickled it is an ordinary NaN.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown)

    def __hash__(self) -> int:
        return hash(Unknown)


UNKNOWN = Unknown("nan")


class TextGenEnv(AssembledEnv, gymnasium.Env[np.ndarray, Any]):
    """Token generation as a Markov decision process.

    ## Description
    A prompt is drawn, and the agent writes a response to it, one token an action. The response is scored when it ends,
    and every token pays a penalty for leaving the reference model: `kl_coef` times an estimate of the KL divergence.

    ## Action Space
    `Discrete(V)`: the next token's id, where V is what the model's head can emit. To charge the exact log-ratio the
    environment must learn the policy's log-probability: `TokenAction(token, log_prob)` or a float64 row
    `[token, log_prob]` carries it. A NaN there is refused. `action_masks()` says which ids the tokenizer knows.

    ## Observation Space
    `Box(-1, V-1, (max_length,), int64)`: prompt and response so far, right-padded with -1, which is never a token.
    `max_length = max_prompt_tokens + max_new_tokens`. `textrl_env.wrappers` offers a Hugging Face dict and text.

    ## Rewards
    `r_t = [t is last] * score(prompt, response) - kl_coef * k(log pi(a_t|s_t), log pi_ref(a_t|s_t))`, plus a per-token
    score where the reward gives one. `kl_mode` says what is charged:

    | kl_mode | charge |
    |---|---|
    | `"auto"` | the log-ratio where the first action brings a log-prob, else the cross-entropy; never mixed |
    | `"log_ratio"` | the log-ratio; raises MissingLogProb without a log-prob |
    | `"cross_entropy"` | `-log pi_ref(a_t|s_t)`: KL-regularised RL for an agent whose return carries its entropy |
    | `"deferred"` | nothing: an adapter charges whole episodes through `env.kl_penalty` |

    `score_mode` says when the reward is asked:

    | score_mode | score |
    |---|---|
    | `"stepwise"` (default) | as the episode ends, on its last reward |
    | `"deferred"` | 0 there, and `info["score_pending"]`: `env.unwrapped.settle_scores()` asks for all that wait |

    A deferred score costs one call of the reward a rollout, and not one at each end of an episode. `settle_scores`
    returns the episodes that waited, with their scores; `info["score_pending"]` is an episode's place among them. Who
    learns from the rewards of `step` adds `score` less its token scores to the last one, or takes the episode's own
    `rewards`. The adapters here do so. With `reward_workers=N` the reward is called in N threads while sampling goes
    on, for a server or a slow function; it must then score each response by itself, whatever else is in the call.
    `reward_batch` bounds the responses of a call.

    ## Starting State
    A prompt drawn uniformly with `np_random`. `reset(options={"prompt": text or messages})` or
    `options={"prompt_index": i}` choose one; `"columns"` gives a chosen prompt its other values. A seed is any whole
    number >= 0.

    ## Episode End
    `terminated` at EOS, at a stop string, and at `max_new_tokens`; `info["finish_reason"]` says which. The score is
    paid in each case: the limit is part of the task. `truncated` is left to outer time limits, such as
    `gym.make(..., max_episode_steps=)`: no score is paid there, and an agent bootstraps. Several turns end otherwise,
    see Turns.

    ## Turns
    A task may have a turn environment (`turns`): a game, a tool, a simulated user. When a token ends a turn (EOS, the
    chat template's end of turn, a stop string, `max_turn_tokens`), the same step asks it, pays its reward on that token
    and appends its answer, so that the next observation has grown by more than one id. What it writes is never an
    action, pays no KL, and what was sampled is never tokenised again. Its `reset` writes the prompt; without `prompts`,
    an episode is drawn by its seed, and no split has another's.

    `terminated` when it says so (`finish_reason` "env"), after `max_turns` ("turns"), and where the context is full
    ("length": `max_new_tokens` counts all tokens behind the prompt). `truncated` by a time-out of its own: an agent
    bootstraps. The score is the sum of its rewards, and what `reward` says of the whole dialogue where one is given.

    One that raises, hangs or talks nonsense makes `step` raise a TurnError. It is thrown away, and its row needs a
    reset. What the others answered is kept for when the step is repeated, as it is where a reward fails afterwards.

    ## Rendering
    `render_mode` `"ansi"` gives the text so far, `"human"` prints it as it grows, and `"rgb_array"` is a picture of it
    (uint8 [480, 720, 3]), which needs Pillow when it is asked for.

    ## Copies
    It can be pickled and copied, and goes on as the original would, with the same generator and episode. A pickle
    names the model and holds no weights; a model that was given as a module cannot be pickled.

    ## Arguments
    `task` bundles the rest, and each other argument overrides its part: `model`, `tokenizer`, `prompts`,
    `validation_prompts`, `heldout_prompts`, `reward`, `kl_coef` (a number, or `{"value", "target", "horizon"}` for an
    adaptive one), `kl_estimator` ("k1", "k2", "k3", "full"), `kl_mode`, `score_mode`, `reward_workers`, `reward_batch`,
    `max_new_tokens`, `max_prompt_tokens`, `turns`, `max_turns`, `max_turn_tokens`, `turn_timeout` (seconds for an
    answer), `turn_workers` (asked at the same time), `sampling`, `as_chat` (ask texts by the chat template, where there
    is one), `system_prompt`, `stop`, `split` ("train", "validation" or "heldout"; by default "train", and all of
    `prompts` where they are given), `lora` (keyword arguments of `peft.LoraConfig`), `device`, `dtype`, `precision`,
    `render_mode`.

    ## Info
    At every step `ref_log_prob` and `kl` (NaN where unknown). At the end also `prompt`, `response`, `score`,
    `score_parts`, `gold_score` (if the task has one), `kl_sum`, `kl_coef`, `finish_reason`, `episode_return`,
    `episode_length`; while a score is pending it is NaN, and no part of the return. (`episode` belongs to Gymnasium's
    RecordEpisodeStatistics, and is never set here.)
    The sum of rewards is `score - kl_coef * kl_sum`; in cross-entropy mode `kl_sum` is the summed cross-entropy.

    Of several turns `info["turn"]` at a turn's end: `action`, `reply`, `role`, `score`, `score_parts`, `tokens`,
    `finish_reason`. At the episode's end all of them are in `info["turns"]`, `score_parts` has their sums ("turns" is
    the whole), and `success` is what the turn environment says of it.

    ## Version History
    - v0: first release.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, task: str | Task = "sentiment", *, render_mode: str | None = None, **arguments: Unpack[EnvArguments]
    ):
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode must be one of {', '.join(RENDER_MODES)} or None, got {shown(render_mode)}")
        self.render_mode = render_mode
        self._arguments = {"task": task, **arguments}
        self._assemble()
        self.observation_space = observation_space(self.rules)
        self.action_space = gymnasium.spaces.Discrete(self.rules.vocabulary.size)

    def _assemble(self) -> None:
        super()._assemble()
        self._mdp = TokenMDP(self.rules, 1)
        self._renderer = Renderer(self.rules.tokenizer) if self.render_mode is not None else None

    def action_masks(self) -> np.ndarray:
        """bool [V]: the ids that the tokenizer knows. sb3-contrib's MaskablePPO asks for it by this name."""
        return self.rules.vocabulary.known.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; returns the prompt as int64 [max_length] and an empty info.

        seed: of the generator that draws the prompts from now on. options: see Starting State.
        """
        check_options(options, RESET_OPTIONS)
        super().reset(seed=check_seed(seed))
        prompt = choose_prompt(self.prompts, self.np_random, options)
        self._mdp.reset_rows([0], [prompt])
        if self._renderer is not None:
            self._renderer.start(self._mdp.ids[0, : self._mdp.lengths[0]])
            self._show()
        return self._mdp.ids[0].copy(), {}

    def step(self, action: int | TokenAction | np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Append a token; returns the observation, the reward, `terminated`, `truncated` and the info.

        Raises InvalidAction, MissingLogProb, ResetNeeded and RewardError, each before any state has changed, but for
        that of a turn environment (see Turns).
        """
        if not self._mdp.running[0] and self._mdp.prompts[0] is None:
            raise ResetNeeded("call reset() before the first step()")
        actions = parse_action(action, self.rules.vocabulary.size)
        before = int(self._mdp.lengths[0])
        transition = self._mdp.step(actions)
        info = {key: UNKNOWN if value != value else value for key, value in step_info(transition, 0).items()}
        if self._renderer is not None:
            written = self._mdp.ids[0, before : self._mdp.lengths[0]].tolist()
            self._renderer.add(written, float(transition.rewards[0]), transition.episodes)
            self._show()
        ends = bool(transition.terminated[0]), bool(transition.truncated[0])
        return self._mdp.ids[0].copy(), float(transition.rewards[0]), *ends, info

    def close(self) -> None:
        """Stop asking for scores in threads, and close the turn environment."""
        self._close()
        super().close()  # type: ignore[no-untyped-call]  # Gymnasium's

    def render(self) -> str | np.ndarray | None:  # type: ignore[override]  # the base class knows no text
        """`"ansi"`: the text so far. `"rgb_array"`: a picture of it. `"human"` prints it, at each reset and step.

        Raises MissingExtra where a picture is asked for and Pillow is not installed.
        """
        if self._renderer is None:
            gymnasium.logger.warn("render() was called without a render_mode: pass render_mode='ansi' to gym.make")
            return None
        if self.render_mode == "rgb_array":
            return self._renderer.picture()
        return self._renderer.text() if self.render_mode == "ansi" else None

    def _show(self) -> None:
        if self.render_mode == "human" and self._renderer is not None:
            self._renderer.print_new()


def observation_space(rules: EpisodeRules) -> gymnasium.spaces.Box:
    """`Box(-1, V-1, (max_length,), int64)`."""
    return gymnasium.spaces.Box(-1, rules.vocabulary.size - 1, (rules.max_length,), np.int64)


def check_options(options: dict[str, Any] | None, known: Sequence[str]) -> None:
    """Raise UnknownName where `reset` got an option that would be ignored."""
    check_names("option of reset", options or {}, known)


def choose_prompt(prompts: PromptSet, np_random: np.random.Generator, options: dict[str, Any] | None) -> Prompt:
    """The prompt that `options` names, or one drawn uniformly."""
    options = options or {}
    if "prompt" in options:
        return prompts.encode(options["prompt"], options.get("columns"))
    if "prompt_index" in options:
        index = options["prompt_index"]
        whole = isinstance(index, (int, np.integer)) and not isinstance(index, bool)
        if not (whole and 0 <= index < len(prompts)):
            raise PromptError(f"prompt_index must be a whole number in [0, {len(prompts)}), got {index!r}")
        return prompts[int(index)]
    return prompts.sample(np_random)


def step_info(transition: Transition, row: int) -> dict[str, Any]:
    """`info` of one row after a step."""
    info: dict[str, Any] = {
        "ref_log_prob": float(transition.ref_log_probs[row]),
        "kl": float(transition.kl[row]),
    }
    turn = next((record for at, record in transition.turns if at == row), None)
    if turn is not None:
        info["turn"] = turn
    ended = next((episode for at, episode in transition.episodes if at == row), None)
    return info if ended is None else {**info, **ended.info()}
