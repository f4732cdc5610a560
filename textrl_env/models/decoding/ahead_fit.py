"""Whether a model can be decoded ahead: tried, and not taken on trust."""

from __future__ import annotations

import warnings
from typing import Protocol

import torch

from textrl_env.models.causal_lm import PROBE_TOLERANCE, CausalLM
from textrl_env.models.context_rules import limited_window
from textrl_env.models.decoding.ahead_decoder import AheadDecoder, StepPolicy
from textrl_env.models.decoding.engine import Request
from textrl_env.models.decoding.paged_engine import PagedEngine
from textrl_env.models.decoding.slot_attention import takes_attention
from textrl_env.models.vocabulary import Vocabulary

PROBE_TOKENS = 3  # decoded behind a prompt that nearly fills the context, and behind one of a single token


class AheadPolicy(StepPolicy, Protocol):
    """What decoding ahead asks of a policy. max_length: of an observation. response_tokens: of the longest response."""

    lm: CausalLM
    vocabulary: Vocabulary
    max_length: int
    response_tokens: int | None

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of the distribution sampled, float32 [M, V], of features [M, F]."""


def ahead_decoder(policy: AheadPolicy) -> AheadDecoder | None:
    """The decoder of `policy` over pages; None, with one warning, where its model cannot be decoded so."""
    reason = why_not_paged(policy.lm, policy.max_length)
    if reason is not None:
        warnings.warn(
            f"{type(policy.lm.model).__name__} cannot be decoded ahead ({reason}). It is decoded step by step instead.",
            stacklevel=4,
        )
        return None
    engine = PagedEngine(policy.lm, policy._logits, policy.vocabulary.eos_ids.tolist())
    return AheadDecoder(engine, policy, policy.vocabulary.eos_ids.tolist(), policy.response_tokens)


@torch.no_grad()
def why_not_paged(lm: CausalLM, max_length: int) -> str | None:
    """Say why log-probabilities of responses over pages are not those of whole sequences; None where they are.

    Leaves torch's generators as they were.
    """
    if (window := limited_window(lm.config, max_length)) is not None:
        return window
    if lm.rope_switch is not None and lm.rope_switch < max_length:
        return f"its positions are turned another way beyond {lm.rope_switch} tokens"
    if not takes_attention(lm):
        return "it has an attention of its own; eager attention or SDPA of transformers is needed"
    ids = (7 * torch.arange(max_length) % lm.vocab_size).tolist()
    new = min(PROBE_TOKENS, max_length - 1)
    requests = [Request(ids[: max_length - new], new), Request(ids[:1], new)]
    with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        try:
            responses = PagedEngine(lm, lm.project, ()).respond(requests, deterministic=False)
        except Exception as error:
            return str(error)
    for request, (tokens, log_probs) in zip(requests, responses, strict=True):
        whole = torch.tensor([request.ids + tokens], device=lm.device)
        places = torch.arange(len(request.ids) - 1, whole.shape[1] - 1, device=lm.device)
        logits = lm.project(lm.states(whole, torch.zeros_like(places), places))
        wanted = logits.log_softmax(dim=-1).gather(-1, whole[0, places + 1, None]).squeeze(-1)
        difference = (wanted - torch.tensor(log_probs, device=lm.device)).abs().max()
        difference /= logits.abs().max().clamp(min=1.0)
        if not difference <= PROBE_TOLERANCE[lm.dtype]:
            return f"its log-probabilities differ by {difference:.1e} from those of whole sequences"
    return None
