"""Responses by the continuous batching of `transformers`, over keys and values in pages.

Its manager schedules requests, keeps the pages and draws tokens. The logits that it draws from are ours: temperature,
cuts and banned ids are in them, so that the log-probabilities it returns are those of the distribution sampled.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousMixin
from transformers.generation.continuous_batching.continuous_api import BackgroundThreadStatus
from transformers.modeling_outputs import CausalLMOutput

from textrl_env.errors import ModelError
from textrl_env.models.causal_lm import CausalLM
from textrl_env.models.decoding.engine import Request, Response
from textrl_env.models.decoding.paged_attention import attending_to_pages

LOGGER = "ContinuousBatchingLogger"  # of transformers
PAGE_TOKENS = 32  # of the keys that are kept together
# Requests decoded together. Attention without a kernel for pages runs each token against the keys of all of them.
TOGETHER = {"cpu": 32}
DEFAULT_TOGETHER = 256
WAIT = 1.0  # seconds, after which it is seen whether the thread still runs
TRIES = 100  # within WAIT, for a thread to begin
PREFILL_TOKENS = 1024  # of prompts in one forward; its mask has so many rows


class PagedModel(ContinuousMixin):
    """What the manager takes for a model: the states of `lm`, and the logits that `logits` makes of them.

    logits: states [M, H] -> logits [M, V] of the distribution sampled.
    """

    _supports_flash_attn = False  # else the manager would fetch kernels, where a package of these is installed
    generation_config = GenerationConfig()

    def __init__(self, lm: CausalLM, logits: Callable[[torch.Tensor], torch.Tensor]):
        self._lm, self._logits = lm, logits
        self.config = copy.copy(lm.config)
        self.config._attn_implementation = "sdpa"  # the manager then makes masks, which `paged_attention` takes

    @property
    def device(self) -> torch.device:
        return self._lm.device

    @property
    def dtype(self) -> torch.dtype:
        return self._lm.dtype

    def eval(self) -> PagedModel:
        return self

    def _get_logits_processor(self, generation_config: GenerationConfig) -> LogitsProcessorList:
        return LogitsProcessorList()  # what is processed is in the logits

    def _supports_logits_to_keep(self) -> bool:
        return True

    def __call__(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **paging: Any) -> CausalLMOutput:
        del paging["logits_indices"], paging["logits_processor_args"]
        with attending_to_pages(self._lm.config):
            states = self._lm.paged(input_ids, **paging)[0, logits_to_keep]
        return CausalLMOutput(logits=self._logits(states)[None])


class PagedEngine:
    """An Engine over `CausalLM`, for models that take their attention from the table of `transformers`.

    logits: as PagedModel's. eos_ids: tokens that end a response.

    Each call makes its pages anew and runs in a thread of its own that ends with it: no key of earlier weights is ever
    read, and nothing keeps the process from ending.
    """

    def __init__(self, lm: CausalLM, logits: Callable[[torch.Tensor], torch.Tensor], eos_ids: Collection[int]):
        self._model, self._eos_ids = PagedModel(lm, logits), [int(token) for token in eos_ids]

    def respond(self, requests: Sequence[Request], *, deterministic: bool) -> list[Response]:
        seed = int(torch.randint(2**62, ()))
        with _own_random_numbers(self._model.device), _no_garbage(), _silent():
            manager = self._manager(requests, seed, deterministic)
            # Before the thread starts: what is batched together, and so what is drawn, hangs on no race.
            for number, request in enumerate(requests):
                manager.add_request(
                    request.ids, str(number), max_new_tokens=request.limit, eos_token_id=self._eos_ids or -1
                )
            try:
                manager.start()
                outputs = _outputs(manager, len(requests))
            except BaseException:  # Ctrl-C; the thread may have begun all the same
                _end(manager)
                raise
            manager.stop()
        return [self._response(outputs.get(str(number)), deterministic) for number in range(len(requests))]

    def _manager(self, requests: Sequence[Request], seed: int, deterministic: bool) -> Any:
        together = min(len(requests), TOGETHER.get(self._model.device.type, DEFAULT_TOGETHER))
        longest = max(len(request.ids) + request.limit for request in requests)
        batching = ContinuousBatchingConfig(
            return_logprobs=not deterministic,
            page_size=PAGE_TOKENS,
            num_blocks=together * (longest // PAGE_TOKENS + 1),
            max_batch_tokens=max(together, min(PREFILL_TOKENS, sum(len(request.ids) for request in requests))),
            max_requests_per_batch=together,
            safety_margin=0.0,  # there are pages for all that are decoded together
            allow_block_sharing=False,
            seed=seed,
        )
        generation = GenerationConfig(do_sample=not deterministic, eos_token_id=-1)
        return self._model.init_continuous_batching(generation, batching)

    def _response(self, output: Any, deterministic: bool) -> Response:
        if output is None or output.error is not None:
            cause = "its thread ended" if output is None else output.error
            raise ModelError(f"decoding ahead has failed ({cause}). Use decoder='slots', which decodes step by step.")
        tokens: list[int] = output.generated_tokens
        return Response(tokens, [0.0] * len(tokens) if deterministic else output.logprobs)


def _outputs(manager: Any, count: int) -> dict[str, Any]:
    """Wait until so many requests are answered, or the manager's thread has ended, as it does behind the last.

    Not by joining the thread: in Python 3.11, Ctrl-C in there has it taken for dead while it still runs the model.
    """
    manager.background_thread_status.request_stop(BackgroundThreadStatus.FLUSH_AND_STOP, 0)
    outputs: dict[str, Any] = {}
    while len(outputs) < count:
        running = manager.is_running()
        output = manager.get_result(timeout=WAIT if running else 0)
        if output is not None:
            outputs[output.request_id] = output
        elif not running:
            break
    return outputs


def _end(manager: Any) -> None:
    """End its thread at once, and wait for that; also for one that Ctrl-C met while it was being started."""
    for _ in range(TRIES):
        try:
            manager.stop(hard_stop=True)
            return
        except RuntimeError:  # what has not begun cannot be joined
            time.sleep(WAIT / TRIES)


@contextlib.contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Put torch's generators back where they were: the manager seeds them all."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Have the manager log nothing: an error of its thread is in the outputs, and raised here."""
    log = logging.getLogger(LOGGER)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Keep what lives out of garbage collection: the manager collects twice, each time over the whole process."""
    ours = not gc.get_freeze_count()  # else somebody keeps it out already
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
