"""`textrl`, and `python -m textrl_agents`. Says what to install where a package of the command line is missing."""

from __future__ import annotations

import sys

from textrl_agents.training.extras import COMMAND_LINE, require
from textrl_env.errors import MissingExtra


def main() -> None:
    """Run the `textrl` script."""
    try:
        require(*COMMAND_LINE)
    except MissingExtra as error:
        sys.exit(f"error: {error}")
    from textrl_agents.cli import main as run

    run()


if __name__ == "__main__":
    main()
