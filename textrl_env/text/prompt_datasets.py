"""Prompts from a Hugging Face data set by name: `datasets:<hub id or folder>[:split]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textrl_env.errors import MissingExtra, PromptError, UnknownName

PREFIX = "datasets:"


def load_prompt_dataset(source: str) -> Any:
    """The `datasets.Dataset` that `source` names, such as "datasets:my/prompts:validation"; the split is "train" where
    none is named.

    A folder is read with `load_from_disk` where `save_to_disk` wrote it, else as a folder of data files; anything else
    is a data set's id on the hub. No code of a data set is run.

    Raises:
        MissingExtra: The package datasets is not installed.
        UnknownName: The data set has no such split.
        PromptError: It cannot be loaded; the message says why.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    name, split = _parsed(source)
    try:
        if _is_saved(Path(name).expanduser()):
            loaded = datasets.load_from_disk(str(Path(name).expanduser()))
        else:
            # From version 4 on there is no code to run; before, a data set's own script has to be refused.
            refuse = {"trust_remote_code": False} if int(datasets.__version__.split(".")[0]) < 4 else {}
            loaded = datasets.load_dataset(name, **refuse)
    except Exception as error:
        raise PromptError(
            f"prompts {source!r}: the data set {name!r} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(loaded, dict):  # saved without splits
        if split is not None:
            raise PromptError(f"prompts {source!r}: the data set in {name!r} has no splits; leave out {':' + split!r}")
        return loaded
    split = split or "train"
    if split not in loaded:
        raise UnknownName(f"split of the data set {name!r}", split, loaded)
    return loaded[split]


def _parsed(source: str) -> tuple[str, str | None]:
    """(id or folder, split). A colon before a slash is part of a path."""
    rest = source.removeprefix(PREFIX)
    name, colon, split = rest.rpartition(":")
    if colon and not any(slash in split for slash in "/\\"):
        rest, named = name, split
    else:
        named = None
    if not rest or named == "":
        raise PromptError(f"prompts {source!r}: expected {PREFIX}<hub id or folder>[:split]")
    return rest, named


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
