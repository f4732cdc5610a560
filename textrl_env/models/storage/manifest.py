"""A folder's list of its files with their sizes and hashes: it tells whether they are still what was saved.

A run's `policy/` has its own `manifest.json`. That of a checkpoint lists all files in it, those of its `policy/` too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from textrl_env.errors import ModelError

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write `manifest.json` with the size and SHA-256 of every file in `folder`."""
    listed = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in _files(folder)
    }
    (folder / MANIFEST).write_text(json.dumps(listed, indent=1) + "\n")


def require_manifest(folder: Path) -> None:
    """Raise ModelError where `folder` has no list of its files that can be read."""
    _listed(folder)


def verify(folder: str | Path, *, only: str = "", elsewhere: Mapping[str, Path | None] | None = None) -> None:
    """Compare every file with the manifest.

    only: a file, or a folder with all that is in it; what lies beside it is not read. elsewhere: where a listed file
    lies that was moved out of the folder; None where it need not be anywhere.

    Raises ModelError that names the file that is missing, was changed, or is not in the manifest.
    """
    folder = Path(folder)
    files = _listed(folder)
    moved = elsewhere or {}
    there = [*_files(folder), *(name for name, place in moved.items() if place is not None and place.is_file())]
    within = [name for name in (*there, *files) if not only or name == only or name.startswith(f"{only}/")]
    if not within:
        raise ModelError(f"{folder / only} is missing. Use an older checkpoint.")
    for name in dict.fromkeys(within):
        path = folder / name
        if name not in files:
            raise ModelError(
                f"{path} is not in {MANIFEST}: it does not belong here, or the list was cut. Remove it, or use an "
                "older checkpoint."
            )
        if name in moved and not path.is_file():
            if (place := moved[name]) is None:
                continue
            path = place
        if not path.is_file():
            raise ModelError(f"{path} is missing. Use an older checkpoint.")
        if (path.stat().st_size, _sha256(path)) != files[name]:
            raise ModelError(f"{path} is damaged: it is not the file that was saved. Use an older checkpoint.")


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> (bytes, SHA-256) of every file in the manifest."""
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {name: (entry["bytes"], entry["sha256"]) for name, entry in expected.items()}
    except FileNotFoundError:
        raise ModelError(
            f"{folder} has no {MANIFEST}: it is not a checkpoint or policy of a run, or not a whole one"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder / MANIFEST} cannot be read: {error}. Use an older checkpoint.") from error


def _files(folder: Path) -> list[str]:
    """Names of all files but the manifest and hidden ones, which systems leave in any folder that is looked at."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        name.as_posix()
        for name in names
        if name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts)
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
