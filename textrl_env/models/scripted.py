"""A causal LM whose next-token distribution is written down, for tests of environments, rewards and agents.

It is a real `PreTrainedModel`, so everything that takes a model takes it; it trains in microseconds and its
log-probabilities can be computed by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from textrl_env.errors import ConfigError

# Far above any other logit: such a token has probability 1 in fp32.
CERTAIN = 50.0


class ScriptedConfig(PreTrainedConfig):
    """Configuration of a ScriptedModel."""

    model_type = "textrl_scripted"

    def __init__(self, vocab_size: int = 8, **kwargs: Any):
        self.vocab_size = self.hidden_size = vocab_size
        self.num_hidden_layers = 0
        super().__init__(**kwargs)


class _LastToken(nn.Module):
    """The 'decoder': a state is the one-hot of the token it stands on."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.one_hot = nn.Embedding(vocab_size, vocab_size)
        self.one_hot.weight = nn.Parameter(torch.eye(vocab_size), requires_grad=False)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.one_hot(input_ids))


class ScriptedModel(PreTrainedModel):
    """`logits(next | ids) = table[last id]`: a bigram model with a table of your own.

    table: float [V, V], row i holds the logits of the token after token i.
    """

    config_class = ScriptedConfig
    base_model_prefix = "model"

    def __init__(self, table: torch.Tensor | Sequence[Sequence[float]], *, eos_token_id: int | None = None):
        table = torch.as_tensor(table, dtype=torch.float32)
        if table.ndim != 2 or table.shape[0] != table.shape[1]:
            raise ConfigError(f"table must be [V, V], one row of next-token logits per token; got {list(table.shape)}")
        super().__init__(ScriptedConfig(vocab_size=len(table), eos_token_id=eos_token_id))
        self.model = _LastToken(len(table))
        self.lm_head = nn.Linear(len(table), len(table), bias=False)
        # A linear layer computes W @ one_hot(i), so the table's rows are the weight's columns.
        self.lm_head.weight = nn.Parameter(table.T.clone())

    @classmethod
    def saying(cls, tokenizer: Any, text: str, *, vocab_size: int | None = None) -> ScriptedModel:
        """A model that answers every prompt with `text` and then EOS, for texts in which no token comes twice.

        After any token outside the text it starts the text, and inside it goes on.
        """
        ids = [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        eos = tokenizer.eos_token_id
        if not ids or len(set(ids)) != len(ids) or eos is None:
            raise ConfigError(f"saying() needs a tokenizer with EOS and a text of distinct tokens, got ids {ids}")
        size = vocab_size or len(tokenizer)
        table = torch.zeros(size, size)
        table[:, ids[0]] = CERTAIN
        for token, following in zip(ids, [*ids[1:], eos], strict=True):
            table[token] = 0.0
            table[token, following] = CERTAIN
        return cls(table, eos_token_id=eos)

    def get_decoder(self) -> nn.Module:
        decoder: nn.Module = self.model
        return decoder

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.one_hot
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.lm_head
        return head

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(input_ids).last_hidden_state))
