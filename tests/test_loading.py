"""Loading models: names, folders and modules, devices and types, LoRA, and errors that say what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from suffixes import pack_suffixes
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from textrl_env import TextGenEnv
from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.models import CausalLM, CausalLMActorCritic, Reference, SamplingParams, Vocabulary, load_model
from textrl_env.models.storage.loading import resolve_device, resolve_dtype
from textrl_env.rewards import ClassifierReward

# peft still asks transformers for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

IDS = torch.tensor([[4, 9, 30, 7, 100]])


@pytest.fixture
def folder(make_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A model and its tokenizer, saved in bf16."""
    make_model("llama").bfloat16().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder(folder: Path):
    loaded = load_model(folder, device="cpu")
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32, "half precision is slow on a CPU"
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(loaded.model(input_ids=IDS).logits, plain(input_ids=IDS).logits, atol=0, rtol=0)
    assert loaded.tokenizer("hello")["input_ids"][0] == loaded.tokenizer.bos_token_id
    assert load_model(str(folder), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_embedded_model():
    """CHECKS 41 in part: the default needs no name and no network."""
    loaded = load_model(device="cpu")
    assert Vocabulary.of(*loaded).size >= len(loaded.tokenizer)
    assert sum(weight.numel() for weight in loaded.model.parameters()) < 2e6


def test_a_module_is_used_as_it_is(make_model: Any, tiny_tokenizer: Any):
    model = make_model("llama").train()
    loaded = load_model(model, tokenizer=tiny_tokenizer, device="cpu")
    assert loaded.model is model
    assert not model.training
    assert loaded.tokenizer is tiny_tokenizer


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_module_is_cast_as_from_pretrained_casts(family: str, make_model: Any, tiny_tokenizer: Any, tmp_path: Path):
    """Parameters alone: rotary frequencies in bf16 would move every position."""
    make_model(family).save_pretrained(tmp_path)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    module = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.arange(100)[None]
    module(input_ids=ids).logits.sum().backward()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    got = load_model(module, tokenizer=tiny_tokenizer, device="cpu", dtype="bfloat16").model
    assert got is module
    assert {weight.dtype for weight in got.parameters()} == {torch.bfloat16}
    assert {weight.grad.dtype for weight in got.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(got(input_ids=ids).logits, wanted(input_ids=ids).logits, atol=0, rtol=0)
    assert any("inv_freq" in name for name in buffers)
    torch.testing.assert_close(dict(got.named_buffers()), buffers, atol=0, rtol=0)
    module.to(torch.bfloat16)
    with torch.no_grad():
        assert not torch.equal(got(input_ids=ids).logits, wanted(input_ids=ids).logits), "the buffers change nothing"


def test_an_adapter_stays_in_float32(make_model: Any, tiny_tokenizer: Any):
    """A step of 1e-4 at a weight of 0.1 is less than half of bfloat16's rounding there, and would be lost."""
    pytest.importorskip("peft")
    shared = load_model(make_model("llama"), tokenizer=tiny_tokenizer, device="cpu", dtype="bfloat16", lora={"r": 4})
    for model in (
        shared.model,
        load_model(*shared[:1], tokenizer=tiny_tokenizer, device="cpu", dtype="bfloat16").model,
    ):
        kinds = {name: weight.dtype for name, weight in model.named_parameters()}
        assert {kind for name, kind in kinds.items() if "lora_" in name} == {torch.float32}
        assert {kind for name, kind in kinds.items() if "lora_" not in name} == {torch.bfloat16}
        logits = model(input_ids=IDS).logits
        logits.float().sum().backward()
        assert {weight.grad.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


META = torch.device("meta")


def shapes(model: Any) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (weight.shape, weight.requires_grad) for name, weight in model.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"lora": {"r": 4}}], ids=["plain", "lora"])
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "folder"])
def test_an_outline_is_the_model_without_memory(settings: dict[str, Any], embedded: bool, folder: Path):
    """The same architecture and trainable parameters, nothing allocated, and the weights' file not even opened."""
    if settings:
        pytest.importorskip("peft")
    model = "embedded" if embedded else folder
    real = load_model(model, device="cpu", **settings).model
    if not embedded:
        (folder / "model.safetensors").unlink()
    outline = load_model(model, device=META, **settings).model
    assert all(tensor.is_meta for tensor in (*outline.parameters(), *outline.buffers()))
    assert type(outline) is type(real)
    assert not outline.training
    assert shapes(outline) == shapes(real)


@pytest.mark.parametrize(("ends", "all_ends"), [(None, [1, 2, 3]), (5, [1, 3, 5]), ([0, 5], [0, 1, 3, 5])])
def test_an_outline_has_the_models_vocabulary(
    ends: Any, all_ends: list[int], make_model: Any, tiny_tokenizer: Any, tmp_path: Path
):
    """A padded head, and every id that ends a response: the file of generation settings may name others, and the chat
    template's end of turn, 3, is one."""
    model = make_model("llama", vocab_size=340, eos_token_id=2)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(tmp_path)
    if ends is None:
        (tmp_path / "generation_config.json").unlink()
    tiny_tokenizer.save_pretrained(tmp_path)
    real, outline = (Vocabulary.of(*load_model(tmp_path, device=device)) for device in (torch.device("cpu"), META))
    assert outline.size == real.size == 340
    assert outline.eos_ids.tolist() == real.eos_ids.tolist() == all_ends
    assert outline.known.tolist() == real.known.tolist()
    assert 0 < outline.known.sum() < 340


def test_a_module_stays_as_it_is_beside_outlines(make_model: Any, tiny_tokenizer: Any):
    """Neither moved to where it would lose its weights, nor cast."""
    model = make_model("llama").bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = load_model(model, tokenizer=tiny_tokenizer, device=META, dtype="float32")
    assert loaded.model is model
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert all(weight.requires_grad for weight in model.parameters())


def test_an_outline_that_cannot_be_made(folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"model folder .*nothing.* does not exist"):
        load_model(tmp_path / "nothing", device=META)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model .*cannot be loaded"):
        load_model(folder, device=META)


def test_devices_and_types():
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == automatic
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_dtype("auto", torch.device("cuda")) == "auto", "a GPU keeps the checkpoint's own type"
    assert resolve_dtype(torch.float16, torch.device("cpu")) == torch.float16
    with pytest.raises(UnknownName, match=r"unknown device 'gpu'.*cuda"):
        resolve_device("gpu")
    with pytest.raises(ConfigError, match=r"device 'cuda:99' cannot be used here: .*Use device='auto' or 'cpu'"):
        resolve_device("cuda:99")
    with pytest.raises(ConfigError, match=r"device 'cuda:99' cannot be used here: .*Use device='auto' or 'cpu'"):
        resolve_device(torch.device("cuda", 99))
    assert resolve_device(torch.device("meta")).type == "meta", "an outline needs no device"
    with pytest.raises(UnknownName, match=r"Did you mean 'bfloat16'"):
        resolve_dtype("bfloat61", torch.device("cpu"))
    for odd in (3, None, True, [["cpu"]], 10**5000, {"cpu": 0}):
        with pytest.raises(ConfigError, match=r"device must be a name, such as 'auto', 'cpu' or 'cuda:1', got "):
            resolve_device(odd)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"dtype must be one of auto, float32, bfloat16, float16, got "):
            resolve_dtype(odd, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["mps", torch.device("mps"), torch.device("xpu")])
def test_a_device_that_is_not_there_is_told_in_one_line(device: Any):
    """torch's own message about a missing backend is ninety lines long, the first of a thousand characters."""
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type in str(device):
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError) as caught:
        load_model(device=device)
    message = str(caught.value)
    assert message.startswith(f"device '{device}' cannot be used here: ")
    assert message.endswith("Use device='auto' or 'cpu'.")
    assert len(message.splitlines()) == 1
    assert len(message) < 120


@pytest.fixture
def remarks() -> Iterator[list[str]]:
    """What transformers logs at its usual level."""
    logger, seen = logging.getLogger("transformers"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def test_loading_and_saving_are_silent(remarks: list[str], capfd: Any, make_policy: Any, tmp_path: Path):
    """From Python as from the command line: no bars, and no remark on layers that no plan shards."""
    hub_bars = are_progress_bars_disabled()
    TextGenEnv("sentiment", device="cpu")  # a policy and a reward model
    make_policy().save_pretrained(tmp_path)
    CausalLMActorCritic.from_pretrained(tmp_path, device="cpu")
    assert remarks == []
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    assert are_progress_bars_disabled() == hub_bars


def test_loading_leaves_the_users_settings(remarks: list[str], folder: Path):
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_info()
    try:
        load_model(folder, device="cpu")
        assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.get_verbosity() == logging.INFO
        logging.getLogger("transformers.distributed.tensor_parallel").warning("The following layers were not sharded")
        assert remarks[-1] == "The following layers were not sharded", "outside of loading nothing is held back"
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight"])
def test_a_model_without_some_of_its_weights_is_refused(name: str, remarks: list[str], folder: Path):
    """Transformers makes up random ones, warns and goes on."""
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"is not a whole causal LM: its files have no weights for {name}\."):
        load_model(folder, device="cpu")
    assert remarks == []


def test_tied_weights_need_not_be_in_the_files(make_model: Any, tiny_tokenizer: Any, tmp_path: Path):
    model = make_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path, device="cpu").model
    torch.testing.assert_close(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=0, rtol=0)


class TestTheHub:
    """A model by its id, where there is a network and where there is none."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The URLs that the hub was asked for; it does not answer."""
        urls: list[str] = []

        def silent(url: str, timeout: float) -> None:
            assert timeout <= 5
            urls.append(url)
            raise ConnectionError("Name or service not known")

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", silent)
        return urls

    def test_a_name_that_is_nowhere_is_refused_after_one_request(self, asked: list[str]):
        """The hub's own client asks six times for each file, in 48 to 70 seconds."""
        reason = r"model 'nosuch' is no folder .* cannot be asked for it \(ConnectionError: .*\./nosuch"
        with pytest.raises(ModelError, match=reason):
            load_model("nosuch")
        assert len(asked) == 1
        with pytest.raises(ModelError, match=r"model 'nosuch' is no folder"):
            ClassifierReward("nosuch")
        assert len(asked) == 2

    def test_offline_on_request_asks_nothing(self, asked: list[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"model 'nosuch' is no folder .*HF_HUB_OFFLINE is set"):
            load_model("nosuch")
        assert asked == []

    @pytest.mark.parametrize(("typed", "meant"), [("smolm2", "smollm2"), ("embeded", "embedded")])
    def test_a_mistyped_name_is_asked_about(self, asked: list[str], typed: str, meant: str):
        with pytest.raises(ModelError, match=rf"or connect\. Did you mean '{meant}'\?$"):
            load_model(typed)

    @pytest.mark.slow
    def test_a_model_that_was_downloaded_needs_no_hub(
        self, asked: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        stored = tmp_path / "cache" / "models--someone--tiny"
        for name in ("refs", "snapshots"):
            (stored / name).mkdir(parents=True)
        (stored / "refs" / "main").write_text("0" * 40)
        folder.rename(stored / "snapshots" / ("0" * 40))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        assert load_model("someone/tiny", device="cpu").model.config.model_type == "llama"
        assert len(asked) == 2, "once for the tokenizer and once for the model"

    def test_a_refusal_of_the_hub_is_told_by_the_loader(self, asked: list[str]):
        with pytest.raises(ModelError, match=r"Repo id must be in the form 'repo_name' or 'namespace/repo_name'"):
            load_model("a/b/c")
        assert asked == []


@pytest.mark.parametrize("kind", ["meta", "sparse"])
def test_a_model_without_plain_weights_is_refused(kind: str, make_model: Any, tiny_tokenizer: Any):
    """torch's own errors name neither the model nor the tensor."""
    model = make_model("llama")
    weight = model.lm_head.weight
    other = weight.detach().to("meta") if kind == "meta" else weight.detach().to_sparse()
    model.lm_head.weight = torch.nn.Parameter(other)
    reason = "on the meta device, without values" if kind == "meta" else r"sparse \(torch\.sparse_coo\)"
    for use in (lambda: load_model(model, tokenizer=tiny_tokenizer, device="cpu"), lambda: CausalLM(model)):
        with pytest.raises(ModelError, match=rf"LlamaForCausalLM cannot be run: its tensor lm_head.weight is {reason}"):
            use()


def test_a_checkpoint_of_sparse_tensors_is_refused(folder: Path, make_model: Any):
    (folder / "model.safetensors").unlink()
    weights = {name: tensor.to_sparse() for name, tensor in make_model("llama").state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be"):
        load_model(folder, device="cpu")


def test_what_cannot_be_loaded(folder: Path, make_model: Any, tmp_path: Path):
    """CHECKS 35 in part: each error names the file or folder."""
    with pytest.raises(ModelError, match=r"model folder .*nothing.* does not exist"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"model folder .*nothing.* does not exist"):
        load_model("./nothing")
    with pytest.raises(ModelError, match="LlamaForCausalLM, which brings no tokenizer: pass tokenizer="):
        load_model(make_model("llama"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model .*cannot be loaded"):
        load_model(folder)


def test_a_folder_without_a_tokenizer(folder: Path):
    for path in [*folder.glob("*token*"), *folder.glob("vocab*")]:
        path.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\. Save one there.*or name another with tokenizer="):
        load_model(folder)


def test_code_beside_a_model_is_never_run(folder: Path, tmp_path: Path):
    """CHECKS 37: neither run nor asked about; the message says what kind of model is refused."""
    ran = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="evil", auto_map={k: f"modeling_evil.{k}" for k in ("AutoConfig", "AutoModelForCausalLM")})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)
    assert not ran.exists()


def test_models_that_are_no_decoders_are_refused(tiny_tokenizer: Any):
    from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 320, "num_layers": 1, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_heads": 2}
    t5 = T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=0))
    bert = BertModel(
        BertConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    for model in (t5, bert):
        with pytest.raises(ModelError, match=r"decoder|causal|head"):
            TextGenEnv("exact", model=model, tokenizer=tiny_tokenizer, prompts=["hello"], reward="length")


def test_a_model_that_changes_its_logits_in_its_own_way_is_refused(make_model: Any):
    """Rewards computed from other logits than the model's would be wrong in silence."""
    model = make_model("llama")
    original = model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = shifted
    with pytest.raises(ModelError, match=r"not its head applied to its decoder's states"):
        CausalLM(model)


def lora(make_model: Any, tiny_tokenizer: Any) -> Any:
    """A LoRA model whose adapter does something."""
    pytest.importorskip("peft")
    model = load_model(make_model("llama"), tokenizer=tiny_tokenizer, device="cpu", lora={"r": 4}).model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model


def test_lora_trains_an_adapter_and_the_value_head_alone(make_model: Any, tiny_tokenizer: Any):
    """The frozen weights' bytes do not change in an update (CHECKS 27)."""
    model = lora(make_model, tiny_tokenizer)
    policy = CausalLMActorCritic(model, tiny_tokenizer, max_length=20)
    torch.nn.init.normal_(policy.value_head.weight)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or name.startswith("value_head.") for name in trained)
    assert any("lora_" in name for name in trained)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    packed = pack_suffixes([IDS[0].numpy()], [2], "cpu")
    evaluated = policy.evaluate(packed)
    (evaluated.log_probs.sum() + evaluated.values.sum()).backward()
    torch.optim.Adam([weight for weight in policy.parameters() if weight.requires_grad], lr=0.1).step()
    for name, weight in policy.named_parameters():
        assert torch.equal(weight, before[name]) != (name in trained), name


def test_the_reference_of_a_lora_policy_is_itself_with_the_adapter_off(make_model: Any, tiny_tokenizer: Any):
    """Step by step and for whole episodes, while the policy has the adapter on; the adapter stays trainable."""
    model = lora(make_model, tiny_tokenizer)
    policy = CausalLMActorCritic(model, tiny_tokenizer, max_length=20)
    reference = Reference(model, policy.vocabulary, SamplingParams(), 20)
    base = CausalLM(make_model("llama"))
    packed = pack_suffixes([IDS[0].numpy()], [2], "cpu")
    with torch.no_grad():
        logits = base.project(base.hidden(packed.input_ids))[0, 1:].masked_fill(policy.banned, -torch.inf)
    wanted = logits.log_softmax(-1).gather(-1, packed.actions[:, None]).squeeze(-1)
    torch.testing.assert_close(reference.episode_log_probs(packed), wanted, atol=1e-5, rtol=0)
    observation = np.full((1, 20), -1)
    for step in range(3):
        observation[0, : 2 + step] = IDS[0, : 2 + step]
        policy.step(torch.from_numpy(observation))  # between the steps, with the adapter on
        got = reference.step_log_probs(observation, IDS[0, 2 + step : 3 + step].numpy())
        assert got[0] == pytest.approx(float(wanted[step]), abs=1e-5)
    on = policy.evaluate(packed).log_probs
    assert (on - wanted).abs().max() > 0.1, "the adapter does nothing: the test shows nothing"
    assert any(weight.requires_grad for weight in model.parameters())


def test_a_saved_lora_policy_stands_alone(make_model: Any, tiny_tokenizer: Any, tmp_path: Path):
    """CHECKS 42: merged, so that plain transformers loads it; the live policy keeps its adapter."""
    model = lora(make_model, tiny_tokenizer)
    policy = CausalLMActorCritic(model, tiny_tokenizer, max_length=20)
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits
    policy.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted, atol=0, rtol=0)
    assert hasattr(policy.model, "disable_adapter")
    loaded = CausalLMActorCritic.from_pretrained(tmp_path, device="cpu")
    packed = pack_suffixes([IDS[0].numpy()], [2], "cpu")
    torch.testing.assert_close(loaded.evaluate(packed).log_probs, policy.evaluate(packed).log_probs, atol=1e-4, rtol=0)


def test_lora_settings_that_peft_refuses(make_model: Any, tiny_tokenizer: Any):
    pytest.importorskip("peft")
    for settings in ({"r": -1}, {"rank": 4}, {"target_modules": ["no_such_layer"]}):
        with pytest.raises(ConfigError, match="is refused by peft"):
            load_model(make_model("llama"), tokenizer=tiny_tokenizer, device="cpu", lora=settings)


@pytest.fixture
def _no_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    original: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "peft" else original(name, *a))


@pytest.mark.usefixtures("_no_peft")
def test_a_missing_extra_names_its_own_fix(make_model: Any, tiny_tokenizer: Any):
    with pytest.raises(ImportError, match=r"pip install 'textrl-env\[peft\]'"):
        load_model(make_model("llama"), tokenizer=tiny_tokenizer, lora={"r": 4})
