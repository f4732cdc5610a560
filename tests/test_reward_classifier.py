"""`ClassifierReward`: parity with a plain forward pass, labels, padding, truncation, and folders that cannot work."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.rewards import ClassifierReward, check_reward, make_reward, score_episodes

PROMPTS = ["the soup at the old hotel", "the room", "the", "hello, the soup \U0001f600"]
COMPLETIONS = [" was warm and good", "", " was not bad" * 5, " \u975e\u5e38"]
CHAT = [{"role": "user", "content": "hello, the soup?"}]
LLAMA = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def llama(num_labels: int = 1, pad_token_id: int | None = 1, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**LLAMA, num_labels=num_labels, pad_token_id=pad_token_id, **kwargs)
    return LlamaForSequenceClassification(config)


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=320, n_positions=96, n_embd=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=1)
    )


def bert() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=320,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=96,
            num_labels=1,
            pad_token_id=1,
        )
    )


def one_by_one(model: Any, rows: list[list[int]], label: int = 0) -> list[float]:
    """The oracle: no batch, no padding, no mask."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0, label].item() for row in rows]


@pytest.mark.parametrize("make", [llama, gpt2, bert])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_the_models_logits(make: Any, batch_size: int, tokenizer: Any) -> None:
    """Sorting, padding and batching must not show, in decoders and in encoders."""
    model = make()
    rows = [tokenizer(p + c)["input_ids"] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = one_by_one(copy.deepcopy(model).eval(), rows)
    reward = ClassifierReward(model, tokenizer, batch_size=batch_size)
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 4
    assert score_episodes(reward, PROMPTS, COMPLETIONS).scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_chats_are_read_through_the_template(tokenizer: Any) -> None:
    model = llama()
    whole = [*CHAT, {"role": "assistant", "content": "warm"}]
    expected = one_by_one(copy.deepcopy(model).eval(), [tokenizer.apply_chat_template(whole)["input_ids"]])
    reward = ClassifierReward(model, tokenizer)
    message = [{"role": "assistant", "content": "warm"}]
    assert reward(prompts=[CHAT], completions=[message], trainer_state=None) == pytest.approx(expected, abs=1e-5)
    mixed = reward([CHAT, "the soup", CHAT], [message, " was", message])
    assert mixed[0] == mixed[2] == pytest.approx(expected[0], abs=1e-5)


def test_chats_without_a_template_are_joined(tokenizer: Any) -> None:
    plain = tiny_tokenizer()
    plain.chat_template = None
    reward = ClassifierReward(llama(), plain)
    message = [{"role": "assistant", "content": "warm"}]
    assert reward([CHAT], [message]) == reward(["hello, the soup?\n"], ["warm"])


@pytest.mark.parametrize("spelled", ["<|im_end|>", "<|endoftext|>"])
def test_a_response_cannot_spell_control_tokens_to_the_classifier(spelled: str, tokenizer: Any) -> None:
    """CHECKS 16 on the reward's side: a policy must not learn to end the text that the classifier reads."""
    reward = ClassifierReward(llama(), tokenizer)
    plain = tokenizer("the soup" + spelled, split_special_tokens=True)["input_ids"]
    expected = one_by_one(reward.model, [plain])
    assert reward(["the soup"], [spelled]) == pytest.approx(expected, abs=1e-5)
    reward([CHAT], ["warm"])  # goes through the tokenizer's other mode
    assert reward(["the soup"], [spelled]) == pytest.approx(expected, abs=1e-5)


def test_several_labels(tokenizer: Any) -> None:
    names = {"id2label": {0: "negative", 1: "neutral", 2: "positive"}}
    names["label2id"] = {name: index for index, name in names["id2label"].items()}  # type: ignore[misc]
    rows = [tokenizer(p + c)["input_ids"] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = one_by_one(llama(3).eval(), rows, label=2)
    for label in ("positive", 2):
        reward = ClassifierReward(llama(3, **names), tokenizer, label=label)
        assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match=r"has 3 labels: choose one with label=\. .*negative, neutral, positive"):
        ClassifierReward(llama(3, **names), tokenizer)
    with pytest.raises(UnknownName, match=r"unknown label 'postive'. Did you mean 'positive'"):
        ClassifierReward(llama(3, **names), tokenizer, label="postive")
    for label in (3, -1, True, 1.5):
        with pytest.raises(ConfigError, match=r"label must be a name or an index in \[0, 3\), got"):
            ClassifierReward(llama(3), tokenizer, label=label)  # type: ignore[arg-type]


@pytest.mark.parametrize("pad_token_id", [None, 1])
def test_tokenizers_without_a_padding_token(pad_token_id: int | None) -> None:
    """Hugging Face classifiers refuse batches, or read the logit of a padding token, where this is not settled."""
    tokenizer = tiny_tokenizer(has_pad=False)
    model = llama(pad_token_id=pad_token_id)
    rows = [tokenizer(p + c)["input_ids"] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = one_by_one(copy.deepcopy(model).eval(), rows)
    assert ClassifierReward(model, tokenizer)(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)


def test_without_any_special_token_rows_go_one_by_one() -> None:
    tokenizer = tiny_tokenizer(has_pad=False, has_bos=False, adds_bos=False)
    tokenizer.eos_token = None
    for token in ("<|im_start|>", "<|im_end|>"):
        assert token in tokenizer.all_special_tokens
    tokenizer.extra_special_tokens = []
    model = llama(pad_token_id=None)
    rows = [tokenizer(p + c)["input_ids"] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = one_by_one(copy.deepcopy(model).eval(), rows)
    assert ClassifierReward(model, tokenizer)(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)


def test_long_texts_lose_their_beginning_but_not_bos(tokenizer: Any) -> None:
    model = llama()
    full = tokenizer("the soup " * 60 + "was good")["input_ids"]
    assert len(full) > 96
    expected = one_by_one(copy.deepcopy(model).eval(), [[full[0], *full[-95:]], [full[0], *full[-7:]]])
    text = (["the soup " * 60], ["was good"])
    assert ClassifierReward(model, tokenizer)(*text) == pytest.approx(expected[:1], abs=1e-5)
    assert ClassifierReward(model, tokenizer, max_length=8)(*text) == pytest.approx(expected[1:], abs=1e-5)


def test_an_empty_text_has_a_score() -> None:
    """An empty response to an empty prompt must not end a run."""
    for tokenizer in (tiny_tokenizer(), tiny_tokenizer(adds_bos=False), tiny_tokenizer(adds_bos=False, has_bos=False)):
        assert len(ClassifierReward(llama(), tokenizer)(["", "the"], ["", " soup"])) == 2


def test_the_classifier_is_frozen(tokenizer: Any) -> None:
    """CHECKS 27: neither gradients nor dropout, whatever others do with the module."""
    torch.manual_seed(0)
    model = llama(attention_dropout=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reward = ClassifierReward(model, tokenizer)
    first = reward(PROMPTS, COMPLETIONS)
    model.train()
    assert reward(PROMPTS, COMPLETIONS) == first
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_given_tokenizer_is_left_as_it_is(tokenizer: Any) -> None:
    """The policy may use the same object, and expects control tokens in its templates."""
    before = tokenizer("the<|im_end|>")["input_ids"]
    ClassifierReward(llama(), tokenizer, max_length=4)(PROMPTS, COMPLETIONS)
    assert tokenizer.backend_tokenizer.encode_special_tokens is False
    assert tokenizer("the<|im_end|>")["input_ids"] == before


def test_a_loaded_classifier_needs_its_tokenizer() -> None:
    with pytest.raises(ConfigError, match="a loaded classifier needs its tokenizer too"):
        ClassifierReward(llama())


@pytest.mark.parametrize("argument", ["batch_size", "max_length"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "8"])
def test_bad_sizes(argument: str, value: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=f"{argument} must be an integer >= 1, got {value!r}"):
        ClassifierReward(llama(), tokenizer, **{argument: value})


def test_bad_device_and_dtype(tokenizer: Any) -> None:
    with pytest.raises(UnknownName, match="unknown device 'cdua'"):
        ClassifierReward(llama(), tokenizer, device="cdua")
    with pytest.raises(UnknownName, match="unknown dtype 'float31'"):
        ClassifierReward(llama(), tokenizer, dtype="float31")


def test_low_precision_gives_float32_scores(tokenizer: Any) -> None:
    reward = ClassifierReward(llama(), tokenizer, dtype="bfloat16")
    exact = ClassifierReward(llama(), tokenizer)(PROMPTS, COMPLETIONS)
    assert next(reward.model.parameters()).dtype is torch.bfloat16
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(exact, abs=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorer")
    llama().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_folders(folder: Path, tokenizer: Any) -> None:
    expected = ClassifierReward(llama(), tokenizer)(PROMPTS, COMPLETIONS)
    for reward in (ClassifierReward(folder), make_reward(str(folder)), make_reward(folder, batch_size=2)):
        assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-6)
        assert reward.__name__ == folder.name  # type: ignore[attr-defined]
    made = make_reward(llama(), tokenizer=tokenizer)
    assert made(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-6)


def test_a_folder_without_a_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    llama().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"the folder '{tmp_path}' has no tokenizer; save one there"):
        ClassifierReward(tmp_path)
    assert len(ClassifierReward(tmp_path, tokenizer)(["a"], ["b"])) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere"):
        with pytest.raises(ModelError, match=r"model folder '.*nowhere' does not exist"):
            make_reward(missing)


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    """Transformers makes up a random head and goes on: the policy would be trained on noise."""
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is no trained classifier: it has no weights for score\.weight"):
        ClassifierReward(tmp_path)


def test_a_damaged_folder(folder: Path, tmp_path: Path) -> None:
    """CHECKS 35: the message names the folder."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"reward model '{tmp_path}' cannot be loaded"):
        ClassifierReward(tmp_path)


def test_the_embedded_reward_model() -> None:
    import textrl_env.embedded

    if not (Path(textrl_env.embedded.__file__).parent / "reward" / "config.json").exists():
        pytest.skip("the embedded reward model has not been built")
    reward = make_reward("embedded")
    good, bad = reward(["The soup at the old hotel was"] * 2, [" wonderful and warm.", " awful and cold."])
    assert good > bad
    check_reward(reward)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_are_those_of_the_cpu(tokenizer: Any) -> None:
    expected = ClassifierReward(llama(), tokenizer, device="cpu")(PROMPTS, COMPLETIONS)
    reward = ClassifierReward(llama(), tokenizer, device="cuda")
    assert reward.device.type == "cuda"
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-4)
