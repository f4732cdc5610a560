"""placeholder of the seam"""

from __future__ import annotations

from typing import Any, Protocol


class TurnEnv(Protocol):
    """What answers the policy's replies."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]: ...

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]: ...
