"""The state after each observation, from cached keys and values where they fit and from scratch where they do not.

The decoder is a pure function of the observation: it compares the ids it has cached with the ids it is shown. A row
that repeats or extends them runs one token; any other (a new episode, an edited prefix) is prefilled again. Rows are
independent, so a finished row is refilled while the others go on: continuous batching.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from textrl_env.models.causal_lm import PROBE_TOLERANCE, CausalLM
from textrl_env.models.slot_cache import SlotCache

# Tokens prefilled in one forward; bounds the memory of a first step with many long prompts.
PREFILL_TOKENS = 16384


class SlotDecoder:
    """States of the last token of each observation, for rows that grow token by token.

    lm: the model. max_length: tokens of the longest observation.
    cache: False recomputes every prefix; True uses the slot cache where the model allows it. State-space models and
    sliding windows shorter than `max_length` do not; they fall back to recomputing, with one warning.
    """

    def __init__(self, lm: CausalLM, max_length: int, *, cache: bool = True):
        self.lm, self.max_length = lm, max_length
        self._slots: SlotCache | None = None
        self._ids: torch.Tensor | None = None  # int64 [N, L], what the slots hold; -1 beyond
        self._version: Any = None
        self.cached = cache and max_length > 1 and self._cache_fits()

    def clear(self) -> None:
        """Forget every cached key and value."""
        self._slots = self._ids = None

    @torch.no_grad()
    def last_hidden(self, observations: torch.Tensor) -> torch.Tensor:
        """States [N, H] of the last token of observations int64 [N, L], right-padded with -1."""
        observations = observations.to(self.lm.device)
        last = (observations >= 0).sum(dim=1) - 1
        if not self.cached:
            width = int(last.max()) + 1
            rows = torch.arange(len(last), device=last.device)
            return self.lm.hidden(observations[:, :width].clamp(min=0))[rows, last]
        slots, ids = self._current(observations)
        positions = torch.arange(observations.shape[1], device=observations.device)
        # The last token's keys are written in any case, so only the tokens before it must agree.
        stale = ((observations != ids) & (positions < last[:, None])).any(dim=1)
        # One transfer to the host tells which rows to prefill and how wide attention must be.
        host_stale, host_last = torch.stack([stale.long(), last]).cpu()
        stale_rows = host_stale.nonzero().squeeze(1)
        if len(stale_rows):
            self._prefill(slots, observations, stale_rows, host_last)
        width = int(host_last.max()) + 1
        slots.plan_decode(last, width)
        mask = torch.zeros(len(last), width, dtype=self.lm.dtype, device=last.device)
        mask.masked_fill_(positions[:width] > last[:, None], torch.finfo(self.lm.dtype).min)
        hidden = self.lm.hidden(
            observations.gather(1, last[:, None]),
            position_ids=last[:, None],
            attention_mask=mask[:, None, None],
            cache=slots,
        )
        self._ids = observations.clone()
        return hidden[:, 0]

    def _current(self, observations: torch.Tensor) -> tuple[SlotCache, torch.Tensor]:
        """The slots and the ids in them; without ids where the batch or the weights have changed."""
        version = self.lm.weights_version()
        slots, ids = self._slots, self._ids
        if slots is None or ids is None or ids.shape != observations.shape or version != self._version:
            moved = self._version is None or version[1] != self._version[1]
            outgrown = slots is not None and slots.max_length < observations.shape[1]
            if slots is None or slots.num_rows != len(observations) or outgrown or moved:
                slots = self._slots = SlotCache(len(observations), max(self.max_length, observations.shape[1]))
            ids = torch.full_like(observations, -1)
            self._version = version
        return slots, ids

    def _prefill(self, slots: SlotCache, observations: torch.Tensor, rows: torch.Tensor, last: torch.Tensor) -> None:
        lengths = last[rows]
        rows = rows[lengths.argsort()]
        per_forward = max(1, PREFILL_TOKENS // max(1, int(lengths.max())))
        for part in rows.split(per_forward):
            on_device = part.to(observations.device)
            slots.plan_prefill(on_device)
            self.lm.hidden(observations[on_device, : int(last[part].max())].clamp(min=0), cache=slots)

    @torch.no_grad()
    def _cache_fits(self) -> bool:
        """Compare cached with recomputed states on a few tokens; anything unexpected means recomputing."""
        config = self.lm.config
        reason: str | None = None
        window = getattr(config, "sliding_window", None)
        if window is not None and getattr(config, "use_sliding_window", True) and window < self.max_length:
            reason = f"its sliding window of {window} is shorter than the {self.max_length} tokens of an episode"
        elif "flash" in str(getattr(config, "_attn_implementation", "")):
            reason = "flash attention takes no 4-D mask; load it with attn_implementation='sdpa'"
        else:
            try:
                reason = self._probe()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            warnings.warn(
                f"{type(self.lm.model).__name__} cannot use the slot cache ({reason}). Every step recomputes "
                "its prefix, which is correct but slower.",
                stacklevel=4,
            )
        return reason is None

    def _probe(self) -> str | None:
        """Decode two rows of different lengths by one more token; compare with one forward over both."""
        length = min(6, self.max_length)
        ids = torch.arange(2 * length, device=self.lm.device).view(2, length) % self.lm.vocab_size
        expected = self.lm.hidden(ids)
        self.cached = True
        for last in range(1, length):
            ends = torch.tensor([last, max(last - 1, 0)], device=ids.device)
            observations = ids.masked_fill(torch.arange(length, device=ids.device) > ends[:, None], -1)
            got = self.last_hidden(observations)
        assert self._slots is not None
        layers = len(self._slots.layers)
        self.clear()
        if layers != self.lm.config.num_hidden_layers:
            return f"only {layers} of its {self.lm.config.num_hidden_layers} layers keep keys and values"
        wanted = expected[[0, 1], [length - 1, max(length - 2, 0)]]
        error = (got - wanted).abs().max() / wanted.abs().max().clamp(min=1.0)
        return None if error <= PROBE_TOLERANCE[self.lm.dtype] else f"cached states differ by {error:.1e}"
