"""What a rollout replaces: the same work written out with `transformers` alone, as one who knows it would write it.

One batched `generate` with left padding, one batched pass of the reward model over the decoded texts, one batched
pass of the reference for the log-probabilities of what was generated.
"""

from __future__ import annotations

import copy

import torch

from textrl_agents.speed.workload import Subject


class ByHand:
    """Generation, reward and reference over a fixed batch of prompts.

    rows: prompts in the batch. max_new_tokens: the longest response.
    """

    def __init__(self, subject: Subject, rows: int, max_new_tokens: int):
        self.subject, self.max_new_tokens = subject, max_new_tokens
        self._prompts = subject.batch(rows)
        tokenizer = copy.deepcopy(subject.tokenizer)
        encoded = tokenizer(self._prompts, padding=True, padding_side="left", return_tensors="pt")
        self._inputs = {name: encoded[name].to(subject.device) for name in ("input_ids", "attention_mask")}
        eos = subject.model.generation_config.eos_token_id
        eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
        self._eos = torch.tensor(eos, device=subject.device)

    @torch.inference_mode()
    def generate(self) -> torch.Tensor:
        """Prompts and responses, int64 [rows, P + T], sampled from the full distribution."""
        return self.subject.model.generate(
            **self._inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.subject.tokenizer.pad_token_id,
        )

    def generated_tokens(self) -> int:
        """`generate`; the response tokens it made, up to and with each row's EOS."""
        return int(self._response_mask(self.generate()).sum())

    @torch.inference_mode()
    def rollout(self) -> int:
        """`generate`, scores and reference log-probabilities; the real response tokens."""
        sequences = self.generate()
        mask = self._response_mask(sequences)
        scores = self.scores(sequences, mask)
        log_probs = self.reference_log_probs(sequences, mask)
        if not bool(torch.isfinite(scores).all() and torch.isfinite(log_probs).all()):
            raise FloatingPointError("the models gave scores or log-probabilities that are not finite")
        return int(mask.sum())

    def scores(self, sequences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 [rows]: the reward model's logit of prompt + response."""
        start = self._prompt_width
        ids = [row[kept].tolist() for row, kept in zip(sequences[:, start:].cpu(), mask.bool().cpu(), strict=True)]
        responses = self.subject.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [prompt + response for prompt, response in zip(self._prompts, responses, strict=True)]
        encoded = self.subject.classifier_tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        inputs = {name: encoded[name].to(self.subject.device) for name in ("input_ids", "attention_mask")}
        return self.subject.classifier(**inputs, use_cache=False).logits[:, 0].float()

    def reference_log_probs(self, sequences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 [rows, T]: log pi_ref of each response token, 0 beyond a response's end."""
        attention = torch.cat([self._inputs["attention_mask"], mask], dim=1)
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
        length = mask.shape[1]
        logits = self.subject.model(
            input_ids=sequences,
            attention_mask=attention,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=length + 1,
        ).logits[:, :-1]
        actions = sequences[:, -length:, None]
        return logits.float().log_softmax(dim=-1).gather(-1, actions).squeeze(-1) * mask

    @property
    def _prompt_width(self) -> int:
        return self._inputs["input_ids"].shape[1]

    def _response_mask(self, sequences: torch.Tensor) -> torch.Tensor:
        """int64 [rows, T]: 1 for response tokens up to and with the first EOS."""
        ended = torch.isin(sequences[:, self._prompt_width :], self._eos).long()
        return (ended.cumsum(dim=1) - ended == 0).long()
