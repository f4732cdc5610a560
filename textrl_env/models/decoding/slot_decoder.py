"""The state after each observation, from cached keys and values where they fit and from scratch where they do not.

The decoder is a pure function of the observation: it compares the ids it has cached with the ids it is shown, and runs
what a row has beyond those that agree. That is one token where a row grew by one, a few where the environment appended
some, and the whole prompt where an episode has begun, in the same forward as the others' one: continuous batching.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from textrl_env.errors import ModelError
from textrl_env.models.causal_lm import PROBE_TOLERANCE, CausalLM
from textrl_env.models.context_rules import batch_limit, limited_window
from textrl_env.models.decoding.slot_attention import takes_attention
from textrl_env.models.decoding.slot_cache import SlotCache
from textrl_env.models.decoding.slot_forward import Run, Shown, run_flat, run_padded
from textrl_env.models.decoding.slot_plan import Pending
from textrl_env.models.shared_prefix import shared_length

# Lengths that a new decoder tries, beyond the first: it grows by one token, and then by two.
PROBE_GROWTH = (0, 1, 3)


class SlotDecoder:
    """States of the last token of each observation, for rows that grow token by token.

    lm: the model. max_length: tokens of the longest observation; a longer one is taken too, and tried first.
    cache: False recomputes every prefix; True uses the slot cache where the model allows it. State-space models,
    attention windows shorter than `max_length` and positions that change with the length do not; they fall back to
    recomputing, with one warning.

    A new decoder runs the model on a row of `max_length` tokens, twice, to see that its numbers are right at every
    length. Raises ModelError where no batch would be, and where they are not finite.
    """

    def __init__(self, lm: CausalLM, max_length: int, *, cache: bool = True):
        self.lm, self._wants_cache = lm, cache
        self._slots: SlotCache | None = None
        self._ids: torch.Tensor | None = None  # int64 [N, L], what the slots hold; -1 beyond
        self._states: torch.Tensor | None = None  # [N, H], what the last step gave
        self._version: Any = None
        self._fit(max_length)

    def _fit(self, max_length: int) -> None:
        """Settle whether rows of up to `max_length` tokens can be cached, or only recomputed."""
        self.clear()
        self.max_length, self.cached = max_length, False
        self._run: Run = run_padded
        if max_length > 1:
            whole = self._whole()
            self._require_finite(whole)
            self.cached = self._wants_cache and self._cache_fits(whole)
            self._check_prefixes(whole)

    def clear(self) -> None:
        """Forget every cached key and value."""
        self._slots = self._ids = self._states = None

    @torch.no_grad()
    def last_hidden(self, observations: torch.Tensor) -> torch.Tensor:
        """States [N, H] of the last token of observations int64 [N, L], right-padded with -1."""
        observations = observations.to(self.lm.device)
        last = (observations >= 0).sum(dim=1) - 1
        if observations.shape[1] > self.max_length:
            self._fit(observations.shape[1])
        if not self.cached:
            width = int(last.max()) + 1
            rows = torch.arange(len(last), device=last.device)
            return self.lm.states(observations[:, :width].clamp(min=0), rows, last)
        slots, ids = self._current(observations)
        if self._states is None:  # nothing is held
            ids = self._begun(slots, ids, observations, last)
        held = (ids >= 0).sum(dim=1)
        agree = (observations == ids).int().cumprod(dim=1).sum(dim=1)
        # A row that went back has begun anew. It is run whole, as when it first began, so that two episodes with the
        # same tokens are equal to the last bit. The last token is run in any case: its state is what is asked for.
        starts = torch.where(last + 1 < held, 0, torch.minimum(agree, last))
        # One transfer to the host tells which tokens to run and how wide attention must be.
        host_starts, host_last = torch.stack([starts, last]).cpu().numpy()
        shown = Shown(observations, last, int(host_last.max()) + 1, Pending.of(host_starts, host_last))
        self._ids = None  # a forward that fails leaves slots that nothing is known of
        hidden = self._run(self.lm, slots, shown)
        if self._states is not None:
            # Whoever asks twice gets the same answer, whatever the other rows brought along.
            hidden = torch.where(((agree > last) & (last + 1 == held))[:, None], self._states, hidden)
        self._ids, self._states = observations.clone(), hidden
        return hidden

    def _current(self, observations: torch.Tensor) -> tuple[SlotCache, torch.Tensor]:
        """The slots and the ids in them; without ids where the batch or the weights have changed."""
        version = self.lm.weights_version()
        slots, ids = self._slots, self._ids
        if slots is None or ids is None or ids.shape != observations.shape or version != self._version:
            moved = self._version is None or version[1] != self._version[1]
            if slots is None or slots.num_rows != len(observations) or moved:
                slots = self._slots = SlotCache(len(observations), self.max_length, self.lm.dtype)
            ids, self._states = torch.full_like(observations, -1), None
            self._version = version
        return slots, ids

    def _begun(
        self, slots: SlotCache, ids: torch.Tensor, observations: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """The ids in the slots, once these hold what all rows begin with: it is run for one of them."""
        if not self.lm.shares_prefixes(observations.shape[1]):
            return ids
        length = shared_length(observations, int((last + 1).sum()), last)
        if length:
            slots.begin_with(self.lm.prefix(observations[0, :length]))
            ids[:, :length] = observations[:, :length]
        return ids

    @torch.no_grad()
    def _cache_fits(self, whole: torch.Tensor) -> bool:
        """Whether cached states are those of rows alone at every length; a warning says why where they are not."""
        config, reason = self.lm.config, limited_window(self.lm.config, self.max_length)
        if reason is None and self.lm.rope_switch is not None and self.lm.rope_switch < self.max_length:
            reason = f"its positions are turned another way beyond {self.lm.rope_switch} tokens"
        elif reason is None and "flash" in str(getattr(config, "_attn_implementation", "")):
            reason = "flash attention takes no 4-D mask; load it with attn_implementation='sdpa'"
        elif reason is None:
            for run in (run_flat, run_padded) if takes_attention(self.lm) else (run_padded,):
                if (reason := self._probe(whole, run)) is None:
                    break
        if reason is not None:
            warnings.warn(
                f"{type(self.lm.model).__name__} cannot use the slot cache ({reason}). Every step recomputes "
                "its prefix, which is correct but slower.",
                stacklevel=4,
            )
        return reason is None

    def _require_finite(self, whole: torch.Tensor) -> None:
        if torch.isfinite(whole).all() and torch.isfinite(self.lm.project(whole[-PROBE_GROWTH[-1] :])).all():
            return
        raise ModelError(
            f"{type(self.lm.model).__name__} computes numbers that are not finite: its weights are broken, or too "
            f"large for {str(self.lm.dtype).removeprefix('torch.')}. Use another checkpoint, or dtype float32."
        )

    def _probe(self, whole: torch.Tensor, run: Run) -> str | None:
        """Say what is wrong with cached states that `run` gives; None where they are right, and it is then used."""
        self._run = run
        try:
            return self._difference(whole)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self.clear()

    @torch.no_grad()
    def _difference(self, whole: torch.Tensor) -> str | None:
        """Decode a row that ends at `max_length` beside one that has just begun; compare with one forward over both.

        What depends on the length shows there: a window, a chunk, a position taken from the longest row. The short
        row is a prefix of the long one, so that the comparison takes two forwards of `max_length` tokens.
        """
        ids = self._probe_ids()
        growth = torch.tensor([steps for steps in PROBE_GROWTH if steps < self.max_length], device=ids.device)
        columns = torch.stack([growth + self.max_length - 1 - growth[-1], growth])  # [2, steps]
        got = []
        self.cached = True
        for ends in columns.T:
            beyond = torch.arange(self.max_length, device=ids.device) > ends[:, None]
            got.append(self.last_hidden(ids.expand(2, -1).masked_fill(beyond, -1)))
        assert self._slots is not None
        layers = len(self._slots.layers)
        if layers != self.lm.config.num_hidden_layers:
            return f"only {layers} of its {self.lm.config.num_hidden_layers} layers keep keys and values"
        error = self._error(torch.stack(got, dim=1).flatten(0, 1), whole[columns.flatten()])
        return None if error <= PROBE_TOLERANCE[self.lm.dtype] else f"cached states differ by {error:.1e}"

    @torch.no_grad()
    def _check_prefixes(self, whole: torch.Tensor) -> None:
        """Refuse a model whose states depend on what stands beside or after a prefix: no batch of it would be right."""
        name, limit = type(self.lm.model).__name__, batch_limit(self.lm.config)
        if limit is not None and limit[0] < self.max_length:
            raise ModelError(
                f"{name} can be run in batches up to {limit[0]} tokens, not {self.max_length}: {limit[1]}. "
                "Lower max_prompt_tokens or max_new_tokens."
            )
        lengths = [min(PROBE_GROWTH[-1], self.max_length)]
        if not self.cached:  # else decoding has compared the row with a shorter prefill of it
            lengths.append(self.max_length - 1)
        for length in lengths:
            columns = torch.arange(length, device=self.lm.device)[-PROBE_GROWTH[-1] :]
            alone = self.lm.hidden(self._probe_ids()[:, :length])[0, columns]
            error = self._error(whole[columns], alone)
            if not error <= PROBE_TOLERANCE[self.lm.dtype]:
                raise ModelError(
                    f"{name}: a prefix of {length} tokens has other states alone than within {self.max_length} tokens "
                    f"(relative difference {error:.1e}), so neither sampling nor training in batches would be right. "
                    "Lower max_prompt_tokens or max_new_tokens to where its attention sees every token."
                )

    def _probe_ids(self) -> torch.Tensor:
        """A row of `max_length` ids, int64 [1, L]."""
        return (7 * torch.arange(self.max_length, device=self.lm.device) % self.lm.vocab_size)[None]

    @torch.no_grad()
    def _whole(self) -> torch.Tensor:
        """The states [L, H] of all prefixes of that row, as training gets them."""
        columns = torch.arange(self.max_length, device=self.lm.device)
        return self.lm.states(self._probe_ids(), torch.zeros_like(columns), columns)

    def _error(self, got: torch.Tensor, wanted: torch.Tensor) -> float:
        """The largest difference between logits, relative to the largest logit."""
        got, wanted = self.lm.project(got), self.lm.project(wanted)
        return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
