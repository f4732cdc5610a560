"""Whether a model that is named by its id can be asked for at the hub, found out before anything waits for it."""

from __future__ import annotations

from pathlib import Path

from textrl_env.errors import ModelError

# Seconds for the one request that tells. The hub's own client tries six times, which takes a minute where there is
# no network, for the model and its tokenizer each.
PATIENCE = 5.0


def local_files_only(name: str) -> bool:
    """Whether the files of a model must come from this machine: it is a folder, or the hub does not answer.

    name: a folder or a model's id. Raises ModelError where the hub does not answer and no file of it is here.
    """
    if Path(name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    reason = _silence_of_the_hub(name)
    if reason is None:
        return False
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise ModelError(
            f"model {name!r} is no folder and no model that was downloaded before, and the hub cannot be asked for it "
            f"({reason}). Name a folder (such as ./{Path(name).name}), or connect."
        )
    return True


def _silence_of_the_hub(name: str) -> str | None:
    """Why the hub gives no answer about `name`; None where it gives any."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return None  # a refusal is an answer, and the loader's own message is the best
    except Exception as error:  # of the HTTP library that this version of the hub's client uses
        return f"{type(error).__name__}: {error}"
    return None
