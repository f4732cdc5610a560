"""The settings of a model that make a state depend on how long its context is, and not on the tokens alone."""

from __future__ import annotations

from typing import Any

# Settings of published decoder models that limit how many tokens one may attend to.
WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "window_size",  # GPT-Neo
    "attention_window_size",
    "local_attention",
    "attention_chunk_size",
    "index_topk",  # DeepSeek V3.2
)
# Settings that list a kind of attention for each layer, and the kinds that see every token.
LAYER_KINDS = ("layer_types", "attention_layers")
UNLIMITED = {"full_attention", "attention", "global"}


def limited_window(config: Any, max_length: int) -> str | None:
    """Say which window of the model is shorter than `max_length` tokens; None where none is.

    config: the text configuration of a Hugging Face model.
    """
    kinds = [kind for name in LAYER_KINDS for kind in getattr(config, name, None) or ()]
    if kinds and UNLIMITED.issuperset(kinds):
        return None
    for name in WINDOWS:
        width = getattr(config, name, None)
        if isinstance(width, int) and 0 < width < max_length:
            return f"its {name.replace('_', ' ')} of {width} is shorter than the {max_length} tokens of an episode"
    return None


def rope_switch(config: Any) -> int | None:
    """Tokens up to which a "longrope" model turns positions one way, and beyond which it turns all of them another.

    The model goes by the longest row of a batch (Ding et al. 2024, https://arxiv.org/abs/2402.13753). None where there
    is no such switch.
    """
    switches = [rope["original_max_position_embeddings"] for rope in _ropes(config) if _kind(rope) == "longrope"]
    return min(switches, default=None)


def batch_limit(config: Any) -> tuple[int, str] | None:
    """Tokens beyond which one forward cannot give the states of all prefixes of a row, and why; None: no limit."""
    if any("dynamic" in _kind(rope) for rope in _ropes(config)):
        return config.max_position_embeddings, "there every length has rotary frequencies of its own (dynamic RoPE)"
    if (width := getattr(config, "keep_window_size", None)) is not None:
        return width, "there what a token attends to is chosen among all tokens of a row, later ones included"
    return None


def _ropes(config: Any) -> list[dict[str, Any]]:
    parameters = getattr(config, "rope_parameters", None) or {}
    # Some models have one set for each kind of layer.
    return [parameters, *(value for value in parameters.values() if isinstance(value, dict))]


def _kind(rope: dict[str, Any]) -> str:
    return rope.get("rope_type") or "default"
