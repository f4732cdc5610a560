"""The README's tree is the tree: a file that is added, renamed or removed must be so there too."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Folders that the tree names without listing what is in them.
WHOLE = {"commands", "entries", "formats"}


def test_tree_lists_every_module():
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("```")[1]
    listed = set(re.findall(r"[\w]+\.py", tree))
    modules = {
        path.name
        for package in ("textrl_env", "agents/textrl_agents")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and path.parent.name not in WHOLE
    }
    assert listed == modules


def test_readme_names_the_commands_that_the_makefile_has():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in set(re.findall(r"^make (\w+)", readme, flags=re.MULTILINE)):
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command
