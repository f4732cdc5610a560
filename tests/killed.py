"""Kills a process at a chosen change of a folder, so that no test of a kill depends on how busy the machine is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
KILLED = 9


def killed_at(moment: int | str, folder: Path, action: Callable[[], Any]) -> bool:
    """Run `action` in a child that ends at once, without tidying up, just before a change of what is in `folder`.

    moment: the number of the change, from 1, or a pattern that the change is the first to match, as "os.rename
    /folder/file". A file that is opened to be
    overwritten counts as one change, and is empty then: that is what a kill before the first byte leaves.
    Returns False where the action came to its end first.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.addaudithook(_Killer(moment, folder))
            action()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the child ended with {code}"
    return code == KILLED


class _Killer:
    def __init__(self, moment: int | str, folder: Path):
        self.moment, self.folder, self.changes, self.dying = moment, str(folder), 0, False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        truncates = event == "open" and arguments[2] & os.O_TRUNC
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if self.dying or not (writes or event in CHANGES) or isinstance(arguments[0], int):
            return
        path = os.fsdecode(arguments[0])
        # `rmtree` names what it removes relative to an open folder.
        if not path.startswith(self.folder) and event not in ("os.remove", "os.rmdir"):
            return
        self.changes += 1
        if self.changes == self.moment or (isinstance(self.moment, str) and re.search(self.moment, f"{event} {path}")):
            self.dying = True
            if truncates and os.path.exists(path):
                os.truncate(path, 0)
            os._exit(KILLED)
