"""Where the embedded models lie, checked against their hashes before use.

`textrl_env/embedded/README.md` says how the files were made.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from types import MappingProxyType

from textrl_env.errors import AssetError, UnknownName

ROOT = Path(__file__).parents[2] / "embedded"
NAMES = ("policy", "turns", "reward")
MODELS = MappingProxyType({"embedded": "policy", "embedded-turns": "turns"})
"""What a model may be called -> the folder of the causal LM that is meant."""
HASHES = "SHA256SUMS.json"
_REMEDY = "Reinstall textrl-env, or make the assets again: python -m textrl_env.embedded.build"


@functools.cache
def asset_folder(name: str) -> Path:
    """Return the folder of an embedded model, in Hugging Face format with its tokenizer.

    Its files' sha256 are checked once per process. Raises `UnknownName` for another name, and `AssetError`
    naming the file where one is missing or is not the one that was shipped.
    """
    if name not in NAMES:
        raise UnknownName("embedded asset", name, NAMES)
    return verified_folder(ROOT, name)


def verified_folder(root: Path, name: str) -> Path:
    """Hash every file that `root`'s list of hashes has for `name`, and return `root / name`.

    Raises `AssetError` naming the file as `asset_folder` does.
    """
    try:
        hashes: dict[str, str] = json.loads((root / HASHES).read_text(encoding="utf-8"))
        expected = {path: digest for path, digest in hashes.items() if path.startswith(f"{name}/")}
    except (OSError, ValueError, AttributeError) as error:
        raise AssetError(f"the list of hashes {root / HASHES} cannot be read ({error}). {_REMEDY}") from error
    if not expected:
        raise AssetError(f"the list of hashes {root / HASHES} has no file of {name!r}. {_REMEDY}")
    for path, digest in expected.items():
        try:
            found = hashlib.sha256((root / path).read_bytes()).hexdigest()
        except OSError as error:
            raise AssetError(f"the embedded file {root / path} cannot be read ({error}). {_REMEDY}") from error
        if found != digest:
            raise AssetError(
                f"the embedded file {root / path} was changed: its sha256 is {found}, expected {digest}. {_REMEDY}"
            )
    return root / name
