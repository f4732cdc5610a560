"""Folders and text files that are there whole or not at all, and folders that one process at a time writes.

A folder is written beside its final name and renamed when every byte is on the disk. A process that is killed while
it writes leaves the previous folder. What it had written so far is a hidden folder, which the next write removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from textrl_env.errors import ConfigError, TextRLError

LOCK = ".lock"
SHOWN = 3  # names in an error message


@contextlib.contextmanager
def atomic_folder(folder: str | Path, *, manifest: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `folder`, in place of an older one, when the block ends.

    manifest: add `manifest.json` with the size and SHA-256 of every file, which `manifest.verify` checks.

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
                from textrl_env.models.storage.manifest import write_manifest  # imports torch; a text file needs none

                write_manifest(fresh)
            _share(fresh)
            _sync(fresh)
            _replace(folder, fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    except TextRLError:
        raise
    except Exception as error:
        # Python raises OSErrors where it cannot write, safetensors a type of its own, tokenizers a bare Exception.
        if not isinstance(error, (OSError, SafetensorError)) and type(error) is not Exception:
            raise
        raise TextRLError(f"{folder} cannot be written: {error}. What was there before is unchanged.") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder. A process that is killed meanwhile leaves it whole, or nothing under its name."""
    doomed = folder.with_name(f".{folder.name}.removing")
    shutil.rmtree(doomed, ignore_errors=True)  # of a process that was killed
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def existing(folder: str | Path) -> Path:
    """Return `folder`, or its predecessor where a process was killed between the two renames that replace it."""
    folder = Path(folder)
    previous = _previous(folder)
    return previous if not folder.is_dir() and previous.is_dir() else folder


def _share(folder: Path) -> None:
    """Give each file the mode of any new file: safetensors writes some that their owner alone may read."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync(folder: Path) -> None:
    """Flush every file: otherwise a rename may reach the disk before their bytes do."""
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


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file to write; it becomes `path` when the block ends, and never in part.

    Raises OSError where it cannot be written. Where that or the block fails, `path` is as it was.
    """
    fresh = path.with_name(f".{path.name}.writing")
    try:
        with fresh.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or the rename may reach the disk before the text does
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Make `text` the content of `path`; a process that is killed meanwhile leaves the previous content.

    Raises OSError where it cannot be written; the file is then as it was.
    """
    with atomic_file(path) as file:
        file.write(text)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it alone while the block runs. A process that is killed does not keep it.

    A folder that the block left empty is removed again where it was not there before. Raises ConfigError where another
    process holds it, TextRLError where it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{str(folder)!r} is being written by another run; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise TextRLError(f"{str(folder)!r} cannot be written: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
            for path in made:
                path.rmdir()
        lock.release()


def foreign_names(folder: Path, first: str) -> str:
    """Name a few files in `folder`; "" where there are none.

    The leftovers of a run that was killed before it wrote its file `first` do not count.
    """
    own = (LOCK, f".{first}.writing")
    names = sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
