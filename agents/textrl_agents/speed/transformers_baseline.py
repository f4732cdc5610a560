"""What our rollout is compared with: the same work with `transformers` alone, written as an expert would write it.

One batched `generate` with left padding, one batched pass of the reward model over the decoded texts, one batched
pass of the reference for the log-probabilities of what was generated.
"""

from __future__ import annotations

import copy

import torch

from textrl_agents.speed.workload import Workload


class TransformersRollout:
    """Generation, reward and reference over a fixed batch of prompts.

    rows: prompts in the batch. max_new_tokens: the longest response.
    """

    def __init__(self, workload: Workload, rows: int, max_new_tokens: int):
        self.workload, self.max_new_tokens = workload, max_new_tokens
        self._prompts = workload.batch(rows)
        tokenizer = copy.deepcopy(workload.tokenizer)
        encoded = tokenizer(self._prompts, padding=True, padding_side="left", return_tensors="pt")
        self._inputs: dict[str, torch.Tensor] = {
            name: encoded[name].to(workload.device) for name in ("input_ids", "attention_mask")
        }
        eos = workload.model.generation_config.eos_token_id
        eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
        self._eos = torch.tensor(eos, device=workload.device)

    @torch.inference_mode()
    def generate(self) -> torch.Tensor:
        """Sample from the full distribution; return prompts and responses, int64 [rows, P + T]."""
        sequences: torch.Tensor = self.workload.model.generate(
            **self._inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.workload.tokenizer.pad_token_id,
        )
        return sequences

    def generated_tokens(self) -> int:
        """Generate; return the number of response tokens, up to and with each row's EOS."""
        return int(self._response_mask(self.generate()).sum())

    @torch.inference_mode()
    def rollout(self) -> int:
        """Generate, score and run the reference; return the number of real response tokens."""
        sequences = self.generate()
        mask = self._response_mask(sequences)
        scores = self.scores(sequences, mask)
        log_probs = self.reference_log_probs(sequences, mask)
        if not bool(torch.isfinite(scores).all() and torch.isfinite(log_probs).all()):
            raise FloatingPointError("the models gave scores or log-probabilities that are not finite")
        return int(mask.sum())

    def scores(self, sequences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the reward model's logit of prompt + response, float32 [rows]."""
        start = self._prompt_width
        ids = [row[kept].tolist() for row, kept in zip(sequences[:, start:].cpu(), mask.bool().cpu(), strict=True)]
        responses = self.workload.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [prompt + response for prompt, response in zip(self._prompts, responses, strict=True)]
        encoded = self.workload.classifier_tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        inputs = {name: encoded[name].to(self.workload.device) for name in ("input_ids", "attention_mask")}
        logits: torch.Tensor = self.workload.classifier(**inputs, use_cache=False).logits
        return logits[:, 0].float()

    def reference_log_probs(self, sequences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return log pi_ref of each response token, 0 beyond a response's end, float32 [rows, T]."""
        attention = torch.cat([self._inputs["attention_mask"], mask], dim=1)
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
        length = mask.shape[1]
        logits: torch.Tensor = self.workload.model(
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
        """Return 1 for response tokens up to and with the first EOS, else 0, int64 [rows, T]."""
        ended = torch.isin(sequences[:, self._prompt_width :], self._eos).long()
        return (ended.cumsum(dim=1) - ended == 0).long()
