"""The policy core that every adapter shares: a causal LM that acts, and a value head that judges the state.

`step` serves rollouts (cached, one token a row), `evaluate` serves updates (one forward per episode), `states` gives
distributions and values at either. All three mean the distribution sampled, so the ratio of an update's first minibatch
is 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from textrl_env.errors import ConfigError, ModelError
from textrl_env.models.adapters import standalone, value_trunk_of
from textrl_env.models.causal_lm import CausalLM
from textrl_env.models.compute.micro_batches import in_micro_batches
from textrl_env.models.decoding.ahead_decoder import AheadDecoder, Upcoming
from textrl_env.models.decoding.ahead_fit import ahead_decoder
from textrl_env.models.decoding.slot_decoder import SlotDecoder
from textrl_env.models.packing import PackedEpisodes, pack_observations, packed_states
from textrl_env.models.projection import CHUNK_ELEMENTS, token_statistics
from textrl_env.models.sampling import Sample, SamplingParams, sample, warp
from textrl_env.models.states import States
from textrl_env.models.storage.loading import load_model
from textrl_env.models.storage.policy_folder import CARD_FILE, SETTINGS_FILE, VALUE_HEAD_FILE, model_card
from textrl_env.models.storage.pretrained import quiet_loading
from textrl_env.models.vocabulary import Vocabulary
from textrl_env.user_values import DECODERS, check_names, check_whole

VALUE_TRUNKS = ("shared", "separate")


class Step(NamedTuple):
    """One step of N rows."""

    tokens: torch.Tensor  # int64 [N]
    log_probs: torch.Tensor  # float32 [N]
    values: torch.Tensor | None  # float32 [N]; None where `values_later`: `states` gives them after the fact


class ActionEvaluation(NamedTuple):
    """M transitions under the current weights; carries gradients."""

    values: torch.Tensor  # float32 [M]
    log_probs: torch.Tensor  # float32 [M]
    entropy: torch.Tensor  # float32 [M], nats


class CausalLMActorCritic(nn.Module):
    """A causal language model with a value head.

    model: a Hugging Face causal LM, plain or wrapped by peft (then only the adapter and the value head train).
    tokenizer: the model's own.
    sampling: how tokens are drawn.
    max_length: tokens of the longest observation.
    greedy: whether it is decoded greedily where nothing else is asked for, as what DQN learns is.
    value_trunk: "shared" puts the value head on the policy's own states; "separate" gives it a copy of the decoder,
        for twice the memory and a value loss that cannot disturb the policy.
    precision: what matrix products are computed in: "float32", "bfloat16", or "auto"; see `compute_dtype`.
    micro_batch_tokens: tokens of a minibatch whose activations are held at a time in an update, for about a third more
        time: its peak of memory then grows with these, and not with the minibatch. None holds all.
    gradient_checkpointing: whether an update keeps what goes into each layer alone, for about a third more time.
    decoder: how `step` decodes: "slots" a token a row and step, with keys and values cached; "ahead" whole responses at
        once by the continuous batching of transformers, of which each step serves a token a row. "ahead" gives no
        values with a step; where the model does not fit, it falls back to "slots" with a warning.
    response_tokens: of the longest response, where known: "ahead" decodes no more behind a prompt.
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
        precision: str = "auto",
        micro_batch_tokens: int | None = None,
        gradient_checkpointing: bool = False,
        decoder: str = "slots",
        response_tokens: int | None = None,
    ):
        super().__init__()
        check_names("decoder", [decoder], DECODERS)
        if response_tokens is not None:
            check_whole("response_tokens", response_tokens, 1)
        if micro_batch_tokens is not None:
            check_whole("micro_batch_tokens", micro_batch_tokens, 1)
        if value_trunk not in VALUE_TRUNKS:
            raise ConfigError(f"value_trunk must be one of {', '.join(VALUE_TRUNKS)}, got {value_trunk!r}")
        self.model, self.tokenizer = model, tokenizer
        self.sampling = sampling or SamplingParams()
        self.value_trunk, self.greedy, self.cache = value_trunk, greedy, cache
        self.max_length, self.micro_batch_tokens = max_length, micro_batch_tokens
        self.decoder, self.response_tokens = decoder, response_tokens
        self.vocabulary = Vocabulary.of(model, tokenizer)
        self.chunk_elements: int | None = CHUNK_ELEMENTS
        self.lm = CausalLM(model, precision=precision)
        # bool [V], ids that are never sampled, or None; a buffer, so that it moves with the weights.
        self.banned: torch.Tensor | None
        self.register_buffer("banned", self.vocabulary.banned(self.lm.device), persistent=False)
        self.value_body = value_trunk_of(model) if value_trunk == "separate" else None
        self._value_lm = self.lm if self.value_body is None else self.lm.with_body(self.value_body)
        # Zero, so that the first advantages are the returns and no random value disturbs the first update.
        self.value_head = nn.Linear(self.lm.hidden_size, 1, device=self.lm.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._decoder: SlotDecoder | None = None
        self._ahead: AheadDecoder | None = None
        self.train(False)
        if gradient_checkpointing:
            for lm in {self.lm, self._value_lm}:
                lm.checkpoint_layers()

    def train(self, mode: bool = True) -> CausalLMActorCritic:
        """Dropout stays off in updates too: with it the ratio of old and new policy would be noise."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> CausalLMActorCritic:
        self.clear_cache()  # moved or cast: what was cached is elsewhere
        self._decoder = self._ahead = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        return self

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def clear_cache(self) -> None:
        """Forget cached keys, values and copies. Never needed for correctness: weights and ids are always compared."""
        self.lm.drop_copies()
        if self._decoder is not None:
            self._decoder.clear()
        if self._ahead is not None:
            self._ahead.clear()

    @property
    def values_later(self) -> bool:
        """Whether `step` gives no values, since one forward after the fact gives them all."""
        return self.value_trunk == "separate" or self.decoder == "ahead"

    def look_ahead(self, steps: int | None, upcoming: Upcoming | None) -> None:
        """Tell decoder="ahead" what is known of the steps to come; see `AheadDecoder.look_ahead`."""
        if (ahead := self._ahead_decoder()) is not None:
            ahead.look_ahead(steps, upcoming)

    def _ahead_decoder(self) -> AheadDecoder | None:
        if self._ahead is None and self.decoder == "ahead":  # built when it is first used, as the other decoder is
            self._ahead = ahead_decoder(self)
            if self._ahead is None:
                self.decoder = "slots"
        return self._ahead

    @torch.no_grad()
    def step(self, observations: torch.Tensor, *, deterministic: bool = False) -> Step:
        """Sample the next token of observations int64 [N, L], right-padded with -1."""
        if (ahead := self._ahead_decoder()) is not None:
            return Step(*ahead.step(observations, deterministic=deterministic), None)
        features = self._features(observations)
        drawn = self._draw(features, deterministic=deterministic)
        values = self._values(self._own_states(features)) if self.value_body is None else None
        return Step(drawn.tokens, drawn.log_probs, values)

    def states(self, shown: torch.Tensor | PackedEpisodes) -> States:
        """Distributions and values of observations int64 [M, L], or at every transition of whole sequences.

        Sequences carry gradients where these are enabled. All their logits together take M * V * 4 bytes.
        """
        return States(self, shown)

    def evaluate(self, packed: PackedEpisodes, actions: torch.Tensor | None = None) -> ActionEvaluation:
        """Values, log-probabilities and entropies of M transitions, by one forward over each sequence.

        actions: int64 [M] to evaluate instead of the packed ones.
        """
        actions = packed.actions if actions is None else actions
        if self.micro_batch_tokens is None or not torch.is_grad_enabled():
            return ActionEvaluation(*self._evaluate(packed, actions))
        return ActionEvaluation(*in_micro_batches(self._evaluate, packed, actions, self.micro_batch_tokens))

    @torch.no_grad()
    def log_probs(self, packed: PackedEpisodes) -> torch.Tensor:
        """Log-probabilities float32 [M] of the packed actions, as `evaluate` computes them."""
        features, size = self._features(packed), self.lm.vocab_size
        return token_statistics(
            features, packed.actions, self._project, self.sampling, self.banned, size, entropy=False
        ).log_probs

    def _evaluate(self, packed: PackedEpisodes, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The parts of an ActionEvaluation."""
        features = self._features(packed)
        statistics = token_statistics(
            features,
            actions,
            self._project,
            self.sampling,
            self.banned,
            self.lm.vocab_size,
            chunk_elements=self.chunk_elements,
        )
        assert statistics.entropy is not None
        judged = self._own_states(features) if self.value_body is None else self._value_states(packed)
        return self._values(judged), statistics.log_probs, statistics.entropy

    # What the distribution is made of; a policy that is more than its language model overrides these three.

    def _features(self, shown: torch.Tensor | PackedEpisodes) -> torch.Tensor:
        """What `_project` takes, [M, F], of observations or of transitions."""
        if not isinstance(shown, PackedEpisodes):
            if self._ahead_decoder() is not None:
                return self._prefix_features(shown)
            if self._decoder is None:  # built at the first step: it probes the model where it then lives
                self._decoder = SlotDecoder(self.lm, self.max_length, cache=self.cache)
            return self._decoder.last_hidden(shown)
        return packed_states(self.lm, shown)

    def _prefix_features(self, observations: torch.Tensor) -> torch.Tensor:
        """The same of observations int64 [M, L], each run as a whole."""
        return packed_states(self.lm, pack_observations(observations.to(self.device)))

    def _own_states(self, features: torch.Tensor) -> torch.Tensor:
        """The language model's states [M, H] among the features."""
        return features

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [M, V] before temperature and cuts."""
        return self.lm.project(features)

    def _draw(self, features: torch.Tensor, *, deterministic: bool) -> Sample:
        return sample(self._project(features), self.sampling, self.banned, deterministic=deterministic)

    def _decoded_version(self) -> Any:
        return self.lm.weights_version(), self.sampling

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        return warp(self._project(features), self.sampling, self.banned)

    def _value_states(self, shown: torch.Tensor | PackedEpisodes) -> torch.Tensor:
        """The states [M, H] that the value head judges, of its own trunk if there is one."""
        if self.value_body is None:
            return CausalLMActorCritic._features(self, shown)
        if not isinstance(shown, PackedEpisodes):
            shown = pack_observations(shown.to(self.device))
        return packed_states(self._value_lm, shown)

    def _values(self, hidden: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.value_head(hidden.to(self.value_head.weight.dtype))
        return values.squeeze(-1).float()

    def value_state(self) -> dict[str, torch.Tensor]:
        """The tensors that are not the language model's: the value head, and its trunk if it has one."""
        return {
            name: tensor.detach().contiguous()
            for name, tensor in self.state_dict().items()
            if name.startswith(("value_head.", "value_body."))
        }

    def save_pretrained(self, folder: str | Path, *, method: str = "reinforcement learning") -> None:
        """Write a folder that plain `AutoModelForCausalLM.from_pretrained` loads, with the value head beside it.

        A LoRA adapter is merged into a copy of the weights, so that the folder stands alone. Its README.md says what of
        the policy plain transformers does not have, and that `method` has trained it.
        """
        folder = Path(folder)
        with quiet_loading():
            standalone(self.model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(self.value_state(), folder / VALUE_HEAD_FILE)
        settings = self._settings()
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        bans_ids = self.banned is not None and bool(self.banned.any())
        card = model_card(self.model, settings, bans_ids=bans_ids, method=method)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")

    def _settings(self) -> dict[str, Any]:
        return {
            "max_length": self.max_length,
            "value_trunk": self.value_trunk,
            "sampling": vars(self.sampling),
            "greedy": self.greedy,
            "precision": self.lm.precision,
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
            cls = next((kind for kind in CausalLMActorCritic.__subclasses__() if kind._wrote(settings)), cls)
            settings |= cls._saved_parts(folder, loaded.tokenizer, device=device, dtype=dtype)
            actor_critic = cls(loaded.model, loaded.tokenizer, **settings)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ModelError(f"{folder / SETTINGS_FILE} cannot be read: {type(error).__name__}: {error}") from error
        if value_head is not None:
            actor_critic._load_values(folder / value_head)
        return actor_critic

    @classmethod
    def _wrote(cls, settings: Mapping[str, Any]) -> bool:
        """Whether a folder with these settings holds a policy of this class, and not of its base."""
        return False

    @classmethod
    def _saved_parts(cls, folder: Path, tokenizer: Any, *, device: str, dtype: str) -> dict[str, Any]:
        """Arguments of the class that lie in files of their own."""
        return {}

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
