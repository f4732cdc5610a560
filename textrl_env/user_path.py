"""Paths that a user names."""

from __future__ import annotations

from pathlib import Path

from textrl_env.errors import ConfigError

SHOWN = 80  # characters of a path in an error message


def user_path(path: str | Path) -> Path:
    """`path` with `~` as a home folder; nothing need be there.

    Raises ConfigError where the system can have no such file, as with names of thousands of characters.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        shown = str(path) if len(str(path)) <= SHOWN else f"{str(path)[: SHOWN - 3]}..."
        raise ConfigError(f"{shown!r} cannot be used as a path: {reason}") from error
    return expanded
