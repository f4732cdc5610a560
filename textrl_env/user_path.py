"""Paths that a user names."""

from __future__ import annotations

from pathlib import Path

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown


def user_path(path: str | Path) -> Path:
    """`path` with `~` as a home folder; nothing need be there.

    Raises ConfigError where the system can have no such file, as with names of thousands of characters, and for what is
    no path.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{shown(str(path) if isinstance(path, Path) else path)} cannot be used as a path: {reason}"
        ) from error
    return expanded
