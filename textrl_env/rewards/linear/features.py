"""What a linear reward reads: features of prompts and responses, saved beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from textrl_env.errors import ModelError, UnknownName
from textrl_env.foreign_text import shown

KINDS = ("hashed_ngrams", "hidden_states")


class Features(Protocol):
    """Turns prompts with their responses into numbers. A row depends on no other row of the call.

    kind: one of `KINDS`, by which `load_features` finds the class. size: features of a row.
    """

    kind: ClassVar[str]
    size: int

    def __call__(self, prompts: list[Any], completions: list[Any]) -> Any:
        """[n, size]: a float32 array, or a SciPy CSR matrix. n >= 1; texts and chats as rewards get them."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that are needed again into `folder`; returns what else is needed, as plain JSON values."""
        ...


def load_features(folder: Path, settings: Mapping[str, Any], **runtime: Any) -> Features:
    """The features that `save` wrote. settings: what it returned, and their `kind`. runtime: device, dtype, batch_size.

    Raises UnknownName for a kind that there is not, and ModelError where the settings or files are not whole.
    """
    settings = dict(settings)
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise UnknownName("kind of features", kind, KINDS)
    try:
        if kind == "hashed_ngrams":
            from textrl_env.rewards.linear.hashed_ngrams import HashedNgrams  # imports scikit-learn when it is called

            return HashedNgrams(**settings)
        from textrl_env.rewards.linear.hidden_states import HiddenStates  # imports torch

        return HiddenStates(folder / "trunk", **settings, **runtime)
    except TypeError as error:
        raise ModelError(f"{folder} has settings of its features that cannot be used: {shown(settings)}") from error
