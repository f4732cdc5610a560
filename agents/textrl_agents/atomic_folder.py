"""Folders that are there whole or not at all, with a list of what is in them.

A folder is written beside its final name and renamed when every byte is on the disk. A process that is killed while
it writes leaves the previous folder; what it had written so far is a hidden folder that the next write removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError

from textrl_env.errors import ModelError, TextRLError

MANIFEST = "manifest.json"


@contextlib.contextmanager
def atomic_folder(folder: str | Path, *, manifest: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `folder`, in place of an older one, when the block ends.

    manifest: add `manifest.json` with the size and SHA-256 of every file, which `verify` checks.

    Raises TextRLError where it cannot be written; then an older folder is as it was.
    """
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.writing")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            yield fresh
            if manifest:
                (fresh / MANIFEST).write_text(json.dumps(_manifest(fresh), indent=1) + "\n")
            _share(fresh)
            _sync(fresh)
            _replace(folder, fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    except TextRLError:
        raise
    except Exception as error:
        # Python's own errors of writing are OSErrors. safetensors has another type, and tokenizers raise a bare
        # Exception.
        if not isinstance(error, (OSError, SafetensorError)) and type(error) is not Exception:
            raise
        raise TextRLError(f"{folder} cannot be written: {error}. What was there before is unchanged.") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder; a process that is killed meanwhile leaves it whole or not at all under its name."""
    doomed = folder.with_name(f".{folder.name}.removing")
    shutil.rmtree(doomed, ignore_errors=True)  # of a process that was killed
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def existing(folder: str | Path) -> Path:
    """`folder`, or its predecessor where a process was killed between the two renames that replace it."""
    folder = Path(folder)
    previous = _previous(folder)
    return previous if not folder.is_dir() and previous.is_dir() else folder


def verify(folder: str | Path, *, only: str = "", elsewhere: Mapping[str, Path | None] | None = None) -> None:
    """Compare every file with the manifest.

    only: a file, or a folder with all that is in it; what lies beside it is not read. elsewhere: where a listed file
    lies that was moved out of the folder; None where it need not be anywhere.

    Raises ModelError that names the file that is missing, was changed, or is not in the manifest.
    """
    folder = Path(folder)
    files = _listed(folder)
    moved = elsewhere or {}
    within = [name for name in (*_files(folder), *files) if not only or name == only or name.startswith(f"{only}/")]
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


def _manifest(folder: Path) -> dict[str, dict[str, int | str]]:
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in _files(folder)
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _share(folder: Path) -> None:
    """safetensors writes files that their owner alone may read; give them the mode of any other new file."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync(folder: Path) -> None:
    """A rename may reach the disk before the bytes of the files do, unless they are flushed first."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir() and os.name == "nt":
            continue  # Windows flushes files alone
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _replace(folder: Path, fresh: Path) -> None:
    previous = _previous(folder)
    if folder.exists():
        # A name cannot be given to another folder in one step everywhere; `existing` finds the older one meanwhile.
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        fresh.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)
