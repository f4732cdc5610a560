"""What both environments share: their parts, and how they are pickled and copied without weights."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.kl import KLPenalty
from textrl_env.mdp import TokenMDP
from textrl_env.rewards.protocol import load_state_of, state_of
from textrl_env.rules import EpisodeRules
from textrl_env.tasks.assembly import assemble
from textrl_env.tasks.task import Task
from textrl_env.text.prompts import PromptSet
from textrl_env.trajectory import Trajectory


class AssembledEnv:
    """An environment made of `assemble(**self._arguments)`.

    A pickle holds the arguments, so the model by its name, and the state. It is assembled again where it is loaded, and
    then steps as the original would: the same prompts, episodes in flight, generators, KL coefficient and whatever its
    reward remembers. A deep copy shares what never changes (model, tokenizer, prompts, a reward that remembers nothing)
    and has a state of its own.
    """

    # What `_assemble` makes; everything else is carried as it is. The optional parts are not in every environment.
    _OPTIONAL = ("_groups", "_renderer")
    _ASSEMBLED = ("task", "rules", "prompts", "model_name", "_mdp", *_OPTIONAL)

    _arguments: dict[str, Any]
    task: Task
    rules: EpisodeRules
    prompts: PromptSet
    model_name: str | None
    _mdp: TokenMDP

    @property
    def kl_penalty(self) -> KLPenalty:
        """Scores whole episodes against the reference; holds the coefficient."""
        return self.rules.kl_penalty

    @property
    def tokenizer(self) -> Any:
        """The model's Hugging Face tokenizer."""
        return self.rules.tokenizer

    def replace_reward(self, reward: Any) -> None:
        """Score the responses that end from now on by another reward.

        Raises ConfigError where others still wait for their score.
        """
        rules = dataclasses.replace(self.rules, reward=reward)
        self._mdp.replace_rules(rules)
        self.rules = rules

    def settle_scores(self) -> list[Trajectory]:
        """Ask the reward for all responses that wait for their score (`score_mode="deferred"`), in one call.

        Returns their episodes in the order in which they ended: `info["score_pending"]` of an episode's end is its
        place in this list. Each has its `score`, `score_parts` and `gold_score` now, and the score is added to the last
        of its `rewards`, which is what the environment would have paid at its last step. An empty list where nothing
        waits.

        Raises a RewardError as `step` does in stepwise mode. Nothing was settled then, and a later call asks again.
        """
        return self._mdp.settle_scores()

    def _close(self) -> None:
        """Stop asking for scores in threads, and close the turn environments."""
        if "_mdp" in vars(self):  # Gymnasium closes one that was refused half-built
            self._mdp.close()

    def _assemble(self) -> None:
        """Make the parts that both environments have, from `_arguments`; each adds those of its own."""
        self.task, self.rules, self.prompts, self.model_name = assemble(**self._arguments)

    def __getstate__(self) -> dict[str, Any]:
        model = self._arguments.get("model")
        if model is None:
            model = getattr(self._arguments["task"], "model", None)  # a Task has one, a name has not
        if hasattr(model, "get_output_embeddings"):
            raise ConfigError(
                f"an environment is pickled without weights, and the model of this one was given as a module "
                f"({type(model).__name__}): give it by its name or folder, or as a function that loads it "
                "(Task(model=...)); copy.deepcopy needs neither"
            )
        carried = {name: value for name, value in vars(self).items() if name not in self._ASSEMBLED}
        optional = {name: getattr(self, name, None) for name in self._OPTIONAL}
        parts = {name: part.state_dict() for name, part in optional.items() if part is not None}
        controller = self.rules.kl_penalty.controller
        return {
            "carried": carried,
            "rows": self._mdp.state_dict(),
            "parts": parts,
            "kl_controller": controller,
            "reward": state_of(self.rules.reward),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["carried"])
        self._assemble()
        self._mdp.load_state_dict(state["rows"], self.prompts)
        self.rules.kl_penalty.controller = state["kl_controller"]
        load_state_of(self.rules.reward, state["reward"])
        for name, part in state["parts"].items():
            getattr(self, name).load_state_dict(part)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = object.__new__(type(self))
        frozen = [
            *self._arguments.values(),
            *(getattr(self.rules, each.name) for each in dataclasses.fields(self.rules)),
        ]
        for part in (self.task, self.prompts, *frozen):
            memo[id(part)] = part
        # The coefficient adapts, so the copy has its own.
        penalty = copy.deepcopy(self.rules.kl_penalty, {})
        reward = self.rules.reward
        reward = copy.deepcopy(reward, {}) if state_of(reward) else reward
        memo[id(self.rules)] = dataclasses.replace(self.rules, kl_penalty=penalty, reward=reward)
        for name, value in vars(self).items():
            setattr(twin, name, copy.deepcopy(value, memo))
        return twin
