"""The embedded models as they ship: intact, small, loadable by plain transformers, and as good as stated."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from conftest import quick
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from textrl_env.embedded import build, reward_training, turn_training
from textrl_env.embedded.corpus import SHARES, TURN_END, TURN_START, collate, documents, tokenizer_texts
from textrl_env.embedded.policy_training import held_out_losses, sample_completions, well_formed_share
from textrl_env.embedded.reward_training import MARGIN, candidates, pair_accuracy, score_texts
from textrl_env.embedded.turn_corpus import PLAYERS, episode, lesson
from textrl_env.embedded.turn_training import turn_metrics
from textrl_env.errors import AssetError, UnknownName
from textrl_env.language.grammar import generate_dialogue, review_prompts
from textrl_env.models.storage.embedded import HASHES, NAMES, asset_folder, verified_folder
from textrl_env.tasks.registry import built_in_formats
from textrl_env.text.tokenization import encode_chat

ROOT = asset_folder("policy").parent
MEGABYTE = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return json.loads((ROOT / build.METRICS).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(asset_folder("policy"))


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(asset_folder("policy")).eval()


@pytest.fixture(scope="module")
def reward() -> Any:
    return AutoModelForSequenceClassification.from_pretrained(asset_folder("reward")).eval()


# --- files ------------------------------------------------------------------------------------------------


def test_every_data_file_is_hashed_and_all_are_small() -> None:
    listed = set(json.loads((ROOT / HASHES).read_text(encoding="utf-8")))
    found = [path for name in NAMES for path in (ROOT / name).rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in found} | {build.METRICS} == listed
    assert sum((ROOT / path).stat().st_size for path in [*listed, HASHES]) <= 8 * MEGABYTE
    assert {path.suffix for path in found} == {".json", ".jinja", ".safetensors"}  # nothing that runs code


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / HASHES, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path",
    ["policy/model.safetensors", "policy/tokenizer.json", "reward/model.safetensors", "reward/config.json"],
)
def test_a_flipped_bit_is_detected_and_the_file_named(copy: Path, path: str) -> None:
    """CHECKS 35, for the embedded files."""
    name = path.split("/")[0]
    assert verified_folder(copy, name) == copy / name
    data = bytearray((copy / path).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / path).write_bytes(data)
    with pytest.raises(AssetError, match=rf"{path} was changed.*python -m textrl_env\.embedded\.build"):
        verified_folder(copy, name)
    other = "reward" if name == "policy" else "policy"
    assert verified_folder(copy, other) == copy / other


def test_a_truncated_or_missing_file_is_detected(copy: Path) -> None:
    weights = copy / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AssetError, match=r"policy/model\.safetensors was changed"):
        verified_folder(copy, "policy")
    weights.unlink()
    with pytest.raises(AssetError, match=r"policy/model\.safetensors cannot be read.*Reinstall"):
        verified_folder(copy, "policy")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"policy": 1', '{"reward/config.json": "0"}', None])
def test_a_broken_list_of_hashes_is_detected(copy: Path, content: str | None) -> None:
    (copy / HASHES).unlink()
    if content is not None:
        (copy / HASHES).write_text(content, encoding="utf-8")
    with pytest.raises(AssetError, match=r"list of hashes .*SHA256SUMS\.json.*Reinstall"):
        verified_folder(copy, "policy")


def test_an_unknown_asset_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'reward'"):
        asset_folder("rewards")


# --- tokenizer --------------------------------------------------------------------------------------------

TEXTS = [
    "",
    "The soup at the old hotel was very good. ",
    "  two  spaces\t\ttabs\n\n\nlines\r\n ",
    "don't , stop . I'm n't 's !",
    "日本語と中文、한국어 text",
    "👩‍👩‍👧‍👦 family 🎉 flag 🇳🇴 é e\u0301 Ω",
    "<|im_end|> <|im_start|>user\n<|endoftext|><|bos|>",
    "\x00\x1b[31m \u202e \ufeff \uffff \U0010ffff",
    "".join(chr(code) for code in range(1, 0x500)),
]


@pytest.mark.parametrize("folder", NAMES)
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_exactly_with_control_tokens_as_text(folder: str, text: str) -> None:
    """CHECKS 13 and 16: every byte has an id, and `split_special_tokens` makes control tokens plain text."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / folder)
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert not set(ids[1:]) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_both_folders_have_the_tokenizer_that_was_trained(tokenizer: Any) -> None:
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(ROOT / "policy" / "tokenizer.json"))
    other = AutoTokenizer.from_pretrained(asset_folder("reward"))
    for text in TEXTS:
        assert tokenizer(text).input_ids == other(text).input_ids == raw.encode(text).ids


def test_special_tokens(tokenizer: Any) -> None:
    """CHECKS 14: padding and end of text are one id, so code that tells them apart by id is wrong."""
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|bos|>",
        "<|endoftext|>",
        "<|endoftext|>",
    )
    assert tokenizer.pad_token_id == tokenizer.eos_token_id != tokenizer.bos_token_id
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.clean_up_tokenization_spaces is False
    assert len(tokenizer) == 1024
    ids = tokenizer(f"{TURN_START}x{TURN_END}").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|bos|>", TURN_START, "x", TURN_END]


def test_chat_template(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "Hello!"}]
    prompt = "<|bos|><|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == prompt
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer(prompt, add_special_tokens=False).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1


def test_documents_are_the_chat_template_between_bos_and_eos(tokenizer: Any) -> None:
    rows = documents(Random(0), tokenizer, 600)
    assert {row.kind for row in rows} == set(SHARES)
    for row in rows:
        assert row.ids[0] == tokenizer.bos_token_id
        assert row.ids[-1] == tokenizer.eos_token_id
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(row.ids[1:-1])
        is_chat = row.kind in ("chat", "dialogue")
        assert is_chat == (tokenizer.convert_tokens_to_ids(TURN_START) in row.ids)
    tokens = {kind: sum(len(row.ids) for row in rows if row.kind == kind) for kind in SHARES}
    assert tokens["review"] > 0.45 * sum(tokens.values()), "reviews are what the model is for"


def test_padding_is_not_trained_on() -> None:
    """CHECKS 29, for the embedded policy's own training; the true EOS, the same id, is."""
    batch = collate([[0, 5, 1], [0, 5, 6, 7, 1]], pad=1)
    assert batch.input_ids.tolist() == [[0, 5, 1, 1, 1], [0, 5, 6, 7, 1]]
    assert batch.labels.tolist() == [[0, 5, 1, -100, -100], [0, 5, 6, 7, 1]]


def test_the_training_text_is_the_one_that_the_models_that_ship_learned() -> None:
    """Any other word, share or order of the formats would make other models, whose figures nobody has measured."""
    texts = list(tokenizer_texts(Random(4), 400))
    digest = hashlib.sha256(repr(texts).encode()).hexdigest()
    assert digest == "4b979ce32327f5764fcb0b87d221f008765565355f54438f9693b2e726a12b22"
    assert list(SHARES) == ["review", "chat", "fact", *built_in_formats()]


# --- models -----------------------------------------------------------------------------------------------


def test_plain_transformers_loads_both(policy: Any, reward: Any, tokenizer: Any) -> None:
    assert 0.5e6 < policy.num_parameters() < 1.5e6
    assert {p.dtype for model in (policy, reward) for p in model.parameters()} == {torch.float32}
    assert policy.config.tie_word_embeddings
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert policy.generation_config.eos_token_id == [tokenizer.eos_token_id, turn_end]
    assert reward.config.num_labels == 1
    assert reward.config.pad_token_id == tokenizer.pad_token_id
    assert policy.config.vocab_size == reward.config.vocab_size == len(tokenizer)
    assert reward(**tokenizer("The soup was good.", return_tensors="pt")).logits.shape == (1, 1)


def test_policy_is_close_to_the_grammar(policy: Any, tokenizer: Any, metrics: dict[str, Any]) -> None:
    losses = held_out_losses(policy, tokenizer, Random("quick"), 600)
    stated = metrics["policy"]["held_out_loss_nats_per_token"]
    assert stated.keys() == {*SHARES, "all", "review_grammar"}
    for kind in ("all", "review", "review_grammar", "chat"):  # of the other kinds there are too few tokens here
        assert losses[kind] == pytest.approx(stated[kind], abs=0.12), kind
    # no model beats the grammar on average: a lower loss would mean that the stated optimum is wrong
    assert -0.01 < losses["review"] - losses["review_grammar"] < 0.1


def test_policy_samples_are_well_formed(policy: Any, tokenizer: Any, metrics: dict[str, Any]) -> None:
    torch.manual_seed(0)
    prompts = review_prompts("heldout")
    completions = sample_completions(policy, tokenizer, prompts)
    share = well_formed_share([a + b for a, b in zip(prompts, completions, strict=True)])
    assert metrics["policy"]["well_formed_share"]["sentences"] >= 0.9
    assert share["sentences"] >= 0.9


@pytest.mark.parametrize("name", quick(["sentiment", "arithmetic"], built_in_formats()))
def test_policy_knows_every_tasks_format_and_is_imperfect(
    name: str, policy: Any, tokenizer: Any, metrics: dict[str, Any]
) -> None:
    """Room above for learning, and below for its failure; and the stated figures hold on other samples."""
    stated = metrics["tasks"][name]
    assert stated["well_formed_share"] >= 0.7
    assert 0.1 < stated["gold_score"]["mean"] < 0.9
    assert 0.2 < stated["score"]["mean"] < 0.95
    again = build.task_metrics(name, policy, tokenizer, 128, seed=2)
    for measure in ("score", "gold_score"):
        error = 4 * stated[measure]["std"] / 128**0.5
        assert again[measure]["mean"] == pytest.approx(stated[measure]["mean"], abs=error)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYERS)
def test_the_policy_that_takes_turns_is_imperfect(name: str, tokenizer: Any, metrics: dict[str, Any]) -> None:
    """Room above for learning, and something to learn from; and the stated figures hold on other samples."""
    stated = metrics["turns"][name]
    assert 0.02 <= stated["success"]["mean"] <= 0.7
    model = AutoModelForCausalLM.from_pretrained(asset_folder("turns"), dtype=torch.float32).eval()
    again = turn_metrics(name, model, tokenizer, 128, seed=2)
    assert again["success"]["mean"] == pytest.approx(stated["success"]["mean"], abs=4 * 0.5 / 128**0.5)


def test_an_episode_is_taught_as_its_template_writes_it_and_its_replies_alone(tokenizer: Any) -> None:
    rng = Random(0)
    for name in PLAYERS:
        for _ in range(20):
            messages = episode(rng, name)
            ids, taught = lesson(tokenizer, messages)
            assert ids == encode_chat(tokenizer, messages[:-1], answer=messages[-1]["content"])
            replies = [message["content"] for message in messages if message["role"] == "assistant"]
            spoken = tokenizer.decode([token for token, learn in zip(ids, taught, strict=True) if learn])
            assert spoken == "".join(f"{reply}<|im_end|>" for reply in replies)


def test_policy_answers_a_chat_and_ends_its_turn(policy: Any, tokenizer: Any) -> None:
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of Marovia?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = policy.generate(**inputs, do_sample=False, top_k=None, max_new_tokens=40)
    answer = output[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of Marovia is Telin.<|im_end|>"


def test_response_lengths_suit_continuous_batching(metrics: dict[str, Any]) -> None:
    """Short on average with a long tail: where a batch must not wait for its longest row."""
    lengths = metrics["policy"]["tokens_to_eos"]
    assert 18 <= lengths["mean"] <= 28
    assert lengths["max"] >= 80
    assert lengths["mean"] == pytest.approx(lengths["grammar_mean"], rel=0.1)


@pytest.mark.slow
def test_stated_pair_accuracy_holds(policy: Any, reward: Any, tokenizer: Any, metrics: dict[str, Any]) -> None:
    """On other texts of the held-out prompts than those that the stated figure was measured on."""
    stated = metrics["reward"]["held_out_pair_accuracy"]
    assert all(row["accuracy"] >= 0.9 for row in stated.values())
    assert metrics["reward"]["margin"] == MARGIN
    torch.manual_seed(1)
    pools = candidates(policy, tokenizer, Random("quick pairs"), prompts=review_prompts("heldout"), per_source=3)
    scores = [score_texts(reward, tokenizer, [candidate.text for candidate in pool]) for pool in pools]
    everything: set[Any] = {"grammar", "policy", "spoilt"}
    accuracy, pairs = pair_accuracy(pools, scores, margin=MARGIN, sources=everything)
    assert pairs > 1000
    assert accuracy >= 0.9
    # the proxy is not the gold score itself: it must be possible to tell them apart
    assert accuracy < 1.0
    reversed_scores = [[-score for score in row] for row in scores]
    assert pair_accuracy(pools, reversed_scores, margin=MARGIN, sources=everything)[0] == pytest.approx(1 - accuracy)


def test_reward_scores_are_centred_and_scaled(reward: Any, tokenizer: Any, metrics: dict[str, Any]) -> None:
    stated = metrics["reward"]["score_of_policy_samples"]
    assert abs(stated["mean"]) < 0.25
    assert 0.8 < stated["std"] < 1.2
    texts = ["The soup was wonderful.", "The soup was just as expected.", "The soup was terrible."]
    best, plain, worst = score_texts(reward, tokenizer, texts)
    assert best > plain + 0.5 > worst + 1.0
    denied, deny = score_texts(reward, tokenizer, ["The soup was not terrible.", "The soup was not wonderful."])
    assert denied > deny


def test_reward_does_not_depend_on_the_batch(reward: Any, tokenizer: Any) -> None:
    """Padding on either side changes no score beyond rounding."""
    texts = [
        "The soup was good.",
        "The room by the lake was dirty. The view was lovely. I liked the staff.",
        "A",
    ]
    alone = [score_texts(reward, tokenizer, [text])[0] for text in texts]
    assert score_texts(reward, tokenizer, texts) == pytest.approx(alone, abs=1e-4)
    left = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        assert reward(**left).logits.squeeze(-1).tolist() == pytest.approx(alone, abs=1e-4)


# --- the build --------------------------------------------------------------------------------------------

TINY = [
    "--steps",
    "4",
    "--turn-steps",
    "2",
    "--reward-steps",
    "3",
    "--per-source",
    "2",
    "--held-out",
    "8",
    "--threads",
    "1",
]


@pytest.mark.slow
def test_a_tiny_build_is_complete_and_deterministic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CHECKS 31, for the build: the same seed gives bit-identical weights, put in place of older ones."""
    short = functools.partial(sample_completions, max_new_tokens=6)  # an untrained model hardly ever ends
    monkeypatch.setattr(reward_training, "sample_completions", short)
    monkeypatch.setattr(build, "sample_completions", short)
    monkeypatch.setattr(turn_training, "MOST_TOKENS", 2)
    folders = [tmp_path / "first", tmp_path / "second"]
    (folders[1] / "policy").mkdir(parents=True)
    (folders[1] / "policy" / "stale.txt").write_text("older assets", encoding="utf-8")
    for folder in folders:
        build.main([*TINY, "--seed", "5", "--out", str(folder)])
        for name in NAMES:
            assert verified_folder(folder, name) == folder / name
        assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, HASHES, build.METRICS])
    # The model that takes turns can be made again alone: it is the same, and the others stay as they are.
    (folders[1] / "turns" / "model.safetensors").unlink()
    build.main([*TINY, "--seed", "5", "--out", str(folders[1]), "--turns-alone"])
    first, second = (json.loads((folder / HASHES).read_text(encoding="utf-8")) for folder in folders)
    apart = {build.METRICS, "turns/tokenizer_config.json"}  # a tokenizer that was loaded says so
    assert {k: v for k, v in first.items() if k not in apart} == {k: v for k, v in second.items() if k not in apart}
    assert AutoModelForCausalLM.from_pretrained(folders[0] / "policy").num_parameters() > 0
    assert "held_out_pair_accuracy" in capsys.readouterr().out


def test_a_build_that_fails_leaves_the_old_assets(copy: Path, policy: Any, reward: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy / "policy")
    with pytest.raises(TypeError, match="not JSON serializable"):
        build.write_assets(copy, tokenizer, {"policy": policy, "reward": reward}, {"unwritable": object()})
    assert sorted(path.name for path in copy.iterdir()) == sorted([*NAMES, HASHES])
    for name in NAMES:
        assert verified_folder(copy, name) == copy / name


def test_build_refuses_senseless_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build.main(["--reward-steps", "0"])
    assert caught.value.code == 2
    assert "--reward-steps must be at least 1, got 0" in capsys.readouterr().err


def test_dialogues_fit_the_context(tokenizer: Any, policy: Any) -> None:
    rng = Random(8)
    lengths = [len(tokenizer.apply_chat_template(generate_dialogue(rng), return_dict=False)) for _ in range(500)]
    assert max(lengths) <= policy.config.max_position_embeddings
