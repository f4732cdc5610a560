"""The policy core that every adapter shares: a causal LM that acts, and a value head that judges the state.

`act` serves rollouts (cached, one token a row), `evaluate` serves updates (one forward per episode). Both give the
log-probability of the distribution sampled, so the ratio of an update's first minibatch is 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from textrl_env.errors import ConfigError, ModelError
from textrl_env.models.causal_lm import CausalLM
from textrl_env.models.decoder import SlotDecoder
from textrl_env.models.packing import SCORING_TOKENS, PackedEpisodes, state_hidden
from textrl_env.models.projection import CHUNK_ELEMENTS, token_statistics
from textrl_env.models.sampling import Sample, SamplingParams, sample, warp
from textrl_env.models.storage.card import CARD_FILE, model_card
from textrl_env.models.storage.loading import load_model
from textrl_env.models.storage.policy_folder import SETTINGS_FILE, VALUE_HEAD_FILE
from textrl_env.models.storage.quiet import quiet_loading
from textrl_env.models.vocabulary import Vocabulary

VALUE_TRUNKS = ("shared", "separate")


class Action(NamedTuple):
    """One step of N rows."""

    tokens: torch.Tensor  # int64 [N]
    log_probs: torch.Tensor  # float32 [N]
    values: torch.Tensor  # float32 [N]


class Evaluation(NamedTuple):
    """M transitions under the current weights; carries gradients."""

    values: torch.Tensor  # float32 [M]
    log_probs: torch.Tensor  # float32 [M]
    entropy: torch.Tensor  # float32 [M], nats


class States(NamedTuple):
    """The states of M observations or transitions."""

    hidden: torch.Tensor  # [M, H]
    logits: torch.Tensor  # float32 [M, V], of the distribution sampled, -inf where an id cannot be drawn
    values: torch.Tensor  # float32 [M]


class CausalLMActorCritic(nn.Module):
    """A causal language model with a value head.

    model: a Hugging Face causal LM, plain or wrapped by peft (then only the adapter and the value head train).
    tokenizer: the model's own.
    sampling: how tokens are drawn.
    max_length: tokens of the longest observation.
    greedy: whether it is decoded greedily where nothing else is asked for, as what DQN learns is.
    value_trunk: "shared" puts the value head on the policy's own states; "separate" gives it a copy of the decoder,
        for twice the memory and a value loss that cannot disturb the policy.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int,
        sampling: SamplingParams | None = None,
        value_trunk: str = "shared",
        greedy: bool = False,
        cache: bool = True,
    ):
        super().__init__()
        if value_trunk not in VALUE_TRUNKS:
            raise ConfigError(f"value_trunk must be one of {', '.join(VALUE_TRUNKS)}, got {value_trunk!r}")
        self.model, self.tokenizer = model, tokenizer
        self.sampling = sampling or SamplingParams()
        self.value_trunk, self.greedy, self.cache = value_trunk, greedy, cache
        self.max_length = max_length
        self.vocabulary = Vocabulary.of(model, tokenizer)
        self.chunk_elements: int | None = CHUNK_ELEMENTS
        self.lm = CausalLM(model)
        # bool [V], ids that are never sampled, or None; a buffer, so that it moves with the weights.
        self.banned: torch.Tensor | None
        self.register_buffer("banned", self.vocabulary.banned(self.lm.device), persistent=False)
        self.value_body = _value_trunk(model) if value_trunk == "separate" else None
        # Zero, so that the first advantages are the returns and no random value disturbs the first update.
        self.value_head = nn.Linear(self.lm.hidden_size, 1, device=self.lm.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._decoder: SlotDecoder | None = None
        self._value_decoder: SlotDecoder | None = None
        self.train(False)

    def train(self, mode: bool = True) -> CausalLMActorCritic:
        """Dropout stays off in updates too: with it the ratio of old and new policy would be noise."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> CausalLMActorCritic:
        self.clear_cache()  # moved or cast: what was cached is elsewhere
        self._decoder = self._value_decoder = None
        return super()._apply(fn, recurse)

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def clear_cache(self) -> None:
        """Forget cached keys and values. Never needed for correctness: weights and ids are compared at every step."""
        for decoder in (self._decoder, self._value_decoder):
            if decoder is not None:
                decoder.clear()

    @torch.no_grad()
    def act(self, observations: torch.Tensor, *, deterministic: bool = False) -> Action:
        """Sample the next token of observations int64 [N, L], right-padded with -1, and judge the states."""
        hidden = self._last_hidden(observations)
        drawn = sample(self._project(hidden), self.sampling, self.banned, deterministic=deterministic)
        return Action(drawn.tokens, drawn.log_probs, self._values_after(observations, hidden))

    @torch.no_grad()
    def sample(self, observations: torch.Tensor, *, deterministic: bool = False) -> Sample:
        """`act` without the values, for rollouts whose values are computed elsewhere."""
        hidden = self._last_hidden(observations)
        return sample(self._project(hidden), self.sampling, self.banned, deterministic=deterministic)

    @torch.no_grad()
    def values(self, observations: torch.Tensor) -> torch.Tensor:
        """State values float32 [N] of observations int64 [N, L]."""
        hidden = observations if self.value_body is not None else self._last_hidden(observations)
        return self._values_after(observations, hidden)

    @torch.no_grad()
    def logits(self, observations: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N, V] of the distribution sampled, -inf where an id cannot be drawn."""
        return warp(self._project(self._last_hidden(observations)), self.sampling, self.banned)

    @torch.no_grad()
    def states(self, observations: torch.Tensor) -> States:
        """States, logits and values of observations int64 [N, L]."""
        hidden = self._last_hidden(observations)
        logits = warp(self._project(hidden), self.sampling, self.banned)
        return States(hidden, logits, self._values_after(observations, hidden))

    def packed_states(self, packed: PackedEpisodes) -> States:
        """`states` at every transition of whole sequences, with gradients; the logits take M * V * 4 bytes."""
        hidden = self._packed_hidden(packed)
        logits = warp(self._project(hidden), self.sampling, self.banned)
        return States(hidden, logits, self._packed_values(packed, hidden))

    def packed_values(self, packed: PackedEpisodes) -> torch.Tensor:
        """State values float32 [M] at the transitions of whole sequences, with gradients where they are enabled."""
        lm = self.lm if self.value_body is None else self._value_lm()
        return self._value_of(state_hidden(lm, packed, max_tokens=SCORING_TOKENS))

    def evaluate(self, packed: PackedEpisodes, actions: torch.Tensor | None = None) -> Evaluation:
        """Values, log-probabilities and entropies of M transitions, by one forward over each sequence.

        actions: int64 [M] to evaluate instead of the packed ones.
        """
        hidden = self._packed_hidden(packed)
        statistics = token_statistics(
            hidden,
            packed.actions if actions is None else actions,
            self._project,
            self.sampling,
            self.banned,
            self.lm.vocab_size,
            chunk_elements=self.chunk_elements,
        )
        assert statistics.entropy is not None
        return Evaluation(self._packed_values(packed, hidden), statistics.log_probs, statistics.entropy)

    @torch.no_grad()
    def distributions(self, packed: PackedEpisodes, rows: int) -> Iterator[torch.Tensor]:
        """Log-probabilities of every id at every transition, float32 [m, V] for `rows` of them at a time.

        Of the distribution sampled: -inf where an id cannot be drawn.
        """
        for part in self._packed_hidden(packed, max_tokens=SCORING_TOKENS).split(rows):
            yield warp(self._project(part), self.sampling, self.banned).log_softmax(dim=-1)

    # What the distribution is made of; a policy that is more than its language model overrides these three.

    def _last_hidden(self, observations: torch.Tensor) -> torch.Tensor:
        return self._policy_decoder().last_hidden(observations)

    def _packed_hidden(self, packed: PackedEpisodes, *, max_tokens: int | None = None) -> torch.Tensor:
        return state_hidden(self.lm, packed, max_tokens=max_tokens)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm.project(hidden)

    def _packed_values(self, packed: PackedEpisodes, hidden: torch.Tensor) -> torch.Tensor:
        return self._value_of(hidden if self.value_body is None else state_hidden(self._value_lm(), packed))

    def _value_of(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden[..., : self.lm.hidden_size]
        return self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1).float()

    def _values_after(self, observations: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if self.value_body is not None:
            if self._value_decoder is None:
                self._value_decoder = SlotDecoder(self._value_lm(), self.max_length, cache=self.cache)
            hidden = self._value_decoder.last_hidden(observations)
        return self._value_of(hidden)

    def _value_lm(self) -> CausalLM:
        return self.lm.with_body(self.value_body)

    def _policy_decoder(self) -> SlotDecoder:
        # Built at the first step: it probes the model where it then lives.
        if self._decoder is None:
            self._decoder = SlotDecoder(self.lm, self.max_length, cache=self.cache)
        return self._decoder

    def value_state(self) -> dict[str, torch.Tensor]:
        """The tensors that are not the language model's: the value head, and its trunk if it has one."""
        return {
            name: tensor.detach().contiguous()
            for name, tensor in self.state_dict().items()
            if name.startswith(("value_head.", "value_body."))
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that plain `AutoModelForCausalLM.from_pretrained` loads, with the value head beside it.

        A LoRA adapter is merged into a copy of the weights, so that the folder stands alone. Its README.md says what of
        the policy plain transformers does not have.
        """
        folder = Path(folder)
        with quiet_loading():
            standalone(self.model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(self.value_state(), folder / VALUE_HEAD_FILE)
        settings = self._settings()
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        card = model_card(self.model, settings, bans_ids=self.banned is not None and bool(self.banned.any()))
        (folder / CARD_FILE).write_text(card, encoding="utf-8")

    def _settings(self) -> dict[str, Any]:
        return {
            "max_length": self.max_length,
            "value_trunk": self.value_trunk,
            "sampling": vars(self.sampling),
            "greedy": self.greedy,
        }

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        value_head: str | Path | None = VALUE_HEAD_FILE,
        **overrides: Any,
    ) -> CausalLMActorCritic:
        """Load what `save_pretrained` wrote: the very policy, of the class that was saved. Raises ModelError.

        value_head: its file, within the folder or elsewhere; None leaves the values at 0.
        overrides: replace saved settings (max_length, sampling, ...).
        """
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise ModelError(
                f"{folder} has no {SETTINGS_FILE}: it is not a folder written by CausalLMActorCritic.save_pretrained. "
                "To start from a plain model use load_model."
            )
        loaded = load_model(folder, device=device, dtype=dtype)
        try:
            settings = json.loads((folder / SETTINGS_FILE).read_text())
            settings["sampling"] = SamplingParams(**settings["sampling"])
            settings.update(overrides)
            if "mask_top_p" in settings:
                from textrl_env.models.masked_actor_critic import MASK_FOLDER, MaskedActorCritic

                masking = load_model(folder / MASK_FOLDER, tokenizer=loaded.tokenizer, device=device, dtype=dtype)
                cls, settings["mask_model"] = MaskedActorCritic, masking.model
            actor_critic = cls(loaded.model, loaded.tokenizer, **settings)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ModelError(f"{folder / SETTINGS_FILE} cannot be read: {type(error).__name__}: {error}") from error
        if value_head is not None:
            actor_critic._load_values(folder / value_head)
        return actor_critic

    def _load_values(self, file: Path) -> None:
        try:
            state = load_file(file, device=str(self.device))
        except Exception as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
        expected = {name: tensor.shape for name, tensor in self.value_state().items()}
        unfit = {name for name, tensor in state.items() if expected.get(name) != tensor.shape}
        unfit |= {name for name in expected if name.startswith("value_head.")} - set(state)
        if unfit:
            raise ModelError(f"{file} does not fit this model: {', '.join(sorted(unfit))}")
        self.load_state_dict(state, strict=False)


def _value_trunk(model: Any) -> nn.Module:
    """A copy of the model's decoder to train as a whole, so without an adapter: saved files have the same names."""
    plain = standalone(model)
    body = plain.get_decoder()
    return (copy.deepcopy(body) if plain is model else body).requires_grad_(True)


def standalone(model: Any) -> Any:
    """A model without an adapter: itself, or a copy with the adapter merged into its weights."""
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model
