"""`textrl`, and `python -m textrl_agents`: says what to install where the command line's own packages are missing."""

from __future__ import annotations

import sys

from textrl_agents.training.extras import COMMAND_LINE, require
from textrl_env.errors import MissingExtra


def main() -> None:
    """Entry point of the `textrl` script."""
    try:
        require(*COMMAND_LINE)
    except MissingExtra as error:
        sys.exit(f"error: {error}")
    from textrl_agents.cli import main as run

    run()


if __name__ == "__main__":
    main()
