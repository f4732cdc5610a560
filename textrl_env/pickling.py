"""Environments that can be pickled and copied: their arguments and the state of their episodes travel, no weights."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.mdp import EpisodeRules, TokenMDP
from textrl_env.text.prompts import PromptSet


class Portable:
    """An environment made of `assemble(**self._arguments)`, as pickle and `copy.deepcopy` see it.

    A pickle holds the arguments, so the model by its name, and the state. It is assembled again where it is loaded, and
    then steps as the original would: the same prompts, episodes in flight, generators and KL coefficient. A deep copy
    shares what never changes (model, tokenizer, reward, prompts) and has a state of its own.
    """

    # What `_assemble` makes; everything else is carried as it is.
    _ASSEMBLED = ("task", "rules", "prompts", "model_name", "_mdp", "_groups", "_renderer")

    _arguments: dict[str, Any]
    rules: EpisodeRules
    prompts: PromptSet
    _mdp: TokenMDP

    def _assemble(self) -> None:
        """Make the parts that `_ASSEMBLED` names, from `_arguments`."""
        raise NotImplementedError

    def _parts_state(self) -> dict[str, Any]:
        """Return what has changed in the assembled parts since they were made."""
        return {"rows": self._mdp.state_dict(), "kl_controller": self.rules.kl_penalty.controller}

    def _load_parts_state(self, state: dict[str, Any]) -> None:
        """Put back what `_parts_state` gave."""
        self._mdp.load_state_dict(state["rows"], self.prompts)
        self.rules.kl_penalty.controller = state["kl_controller"]

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
        return {"carried": carried, "parts": self._parts_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["carried"])
        self._assemble()
        self._load_parts_state(state["parts"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = object.__new__(type(self))
        frozen = [
            *self._arguments.values(),
            *(getattr(self.rules, each.name) for each in dataclasses.fields(self.rules)),
        ]
        for part in (getattr(self, "task", None), self.prompts, *frozen):
            memo[id(part)] = part
        # The coefficient adapts, so the copy has its own.
        penalty = copy.deepcopy(self.rules.kl_penalty, {})
        memo[id(self.rules)] = dataclasses.replace(self.rules, kl_penalty=penalty)
        for name, value in vars(self).items():
            setattr(twin, name, copy.deepcopy(value, memo))
        return twin
