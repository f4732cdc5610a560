"""The folder that a run or a benchmark writes: nobody else's, and written by one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from textrl_env.errors import ConfigError, TextRLError

LOCK = ".lock"
SHOWN = 3  # names in an error message


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
    """The names in `folder`, but for what a run leaves that was killed before it wrote its file `first`; "" if none."""
    own = (LOCK, f".{first}.writing")
    names = sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
