"""One process writes a folder at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from textrl_env.errors import ConfigError, TextRLError

LOCK = ".lock"


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it alone while the block runs. The system lets go of it when this process ends, however.

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
