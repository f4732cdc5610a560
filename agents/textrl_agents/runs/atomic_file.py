"""Text files that are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Make `text` the content of `path`; a process that is killed meanwhile leaves the previous content.

    Raises OSError where it cannot be written; the file is then as it was.
    """
    fresh = path.with_name(f".{path.name}.writing")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or the rename may reach the disk before the text does
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
