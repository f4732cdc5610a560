"""From records to a folder: it loads as a reward on the stated scale, is the same for a seed, and never half there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import quick

from textrl_agents.reward_models import evaluate_reward_model, train_reward_model
from textrl_agents.reward_models.heldout import split_by_prompt
from textrl_agents.reward_models.judgements import read_judgements
from textrl_agents.reward_models.sources import feedback_records, gold_of
from textrl_env.errors import ConfigError, MissingExtra, ModelError, TokenizerMismatch, UnknownName
from textrl_env.preferences.records import Candidate, Comparison, Edit, Ranking, Rating, Record
from textrl_env.rewards import CompositeReward, make_reward
from textrl_env.rewards.combined.ensemble import EnsembleReward
from textrl_env.text.prompt_splits import prompt_item

WORDS = ("good", "bad", "soup", "the hotel", "warm", "not")


def likes_good(prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
    return [text.count("good") - 1.5 * text.count("bad") + 0.01 * len(text) for text in completions]


def comparisons(count: int = 60, seed: int = 0, **columns: Any) -> list[Record]:
    """Comparisons of random texts, three a prompt, whose better one has more "good" and less "bad"."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    while len(records) < count:
        texts = [" " + " ".join(rng.choice(WORDS, size=rng.integers(2, 6))) for _ in range(2)]
        first, second = likes_good([], texts)
        if first != second and texts[0] != texts[1]:
            group = {"group": "even" if len(records) % 2 else "odd", **columns}
            pair = (Candidate(texts[0]), Candidate(texts[1]))
            prompt = f"prompt {len(records) // 3}"
            records.append(Comparison(prompt=prompt, candidates=pair, preferred=int(second > first), columns=group))
    return records


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A folder with a tiny causal LM."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_a_trunks_head_loads_as_a_reward_with_mean_0_and_deviation_1_on_the_reference(trunk: Path, tmp_path: Path):
    records = comparisons()
    report = train_reward_model(
        records,
        out=tmp_path / "rm",
        kind="trunk",
        model=trunk,
        pooling="all",
        group="group",
        gold=likes_good,
        plot=False,
    )
    reward = make_reward(tmp_path / "rm")
    judged = [(record.prompt, candidate.text) for record in records for candidate in record.candidates]
    judged = list(dict.fromkeys(judged))
    scores = np.array(reward([prompt for prompt, _ in judged], [text for _, text in judged]))
    assert scores.mean() == pytest.approx(0, abs=1e-5)
    assert scores.std() == pytest.approx(1, abs=1e-5)
    assert report.heldout.accuracy is not None
    assert report.heldout.gold_accuracy is not None
    assert report.heldout.gold_accuracy.value == report.heldout.accuracy.value  # there was no noise
    assert set(report.heldout.groups) == {"even", "odd"}
    assert report.counts["comparisons"] == 60
    assert report.counts["training prompts"] == 16
    assert report.counts["held-out prompts"] == 4


def test_the_folder_says_what_it_is(trunk: Path, tmp_path: Path):
    report = train_reward_model(comparisons(), out=tmp_path / "rm", kind="trunk", model=trunk, seed=3)
    card = (tmp_path / "rm" / "README.md").read_text()
    assert "| comparisons | 60 |" in card
    assert f"{report.heldout.accuracy}" in card
    assert '"seed": 3' in card
    assert (tmp_path / "rm" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    stated = json.loads((tmp_path / "rm" / "report.json").read_text())
    assert stated == json.loads(json.dumps(report.to_dict(), default=str))
    assert stated["normalization"]["std"] > 0
    names = sorted(path.suffix for path in (tmp_path / "rm").rglob("*") if path.is_file())
    assert set(names) <= {".json", ".jinja", ".md", ".png", ".safetensors"}  # no pickle


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(trunk: Path, tmp_path: Path):
    def trained(name: str, seed: int) -> tuple[bytes, Any]:
        report = train_reward_model(
            comparisons(), out=tmp_path / name, kind="trunk", model=trunk, seed=seed, plot=False
        )
        return (tmp_path / name / "linear.safetensors").read_bytes(), report.to_dict()

    first = trained("a", 1)
    assert trained("b", 1) == first
    assert trained("c", 2)[0] != first[0]


def test_linear_models_learn_from_hashed_words(tmp_path: Path):
    report = train_reward_model(
        comparisons(300), out=tmp_path / "rm", kind="linear", features="hashed_ngrams", plot=False
    )
    assert report.heldout.accuracy is not None
    assert report.heldout.accuracy.low > 0.7
    good, bad = make_reward(tmp_path / "rm")(["x", "x"], [" good soup good", " bad bad"])
    assert good > 1 > -1 > bad
    found = evaluate_reward_model(tmp_path / "rm", comparisons(200, seed=5), gold=likes_good)
    assert found.accuracy is not None
    assert found.accuracy.value > 0.8
    assert found.calibration is not None


def test_an_evaluation_undoes_the_normalisation(trunk: Path, tmp_path: Path):
    """The held-out part alone, judged again from the folder, has the figures of the report."""
    records = comparisons(90)
    report = train_reward_model(records, out=tmp_path / "rm", kind="trunk", model=trunk, plot=False)
    from textrl_agents.reward_models.heldout import split_by_prompt
    from textrl_agents.reward_models.judgements import read_judgements

    items = set(split_by_prompt(read_judgements(records), share=0.2, seed=0).heldout.items)
    kept = [record for record in records if read_judgements([record]).items[0] in items]
    again = evaluate_reward_model(tmp_path / "rm", kept)
    assert again.accuracy == report.heldout.accuracy
    assert again.calibration is not None
    assert report.heldout.calibration is not None
    assert again.calibration.error == pytest.approx(report.heldout.calibration.error, abs=1e-5)


def test_an_ensemble_loads_as_one_reward_on_one_scale(trunk: Path, tmp_path: Path):
    records = comparisons(90)
    report = train_reward_model(
        records, out=tmp_path / "rm", kind="trunk", model=trunk, ensemble=3, combine="uncertainty", plot=False
    )
    assert len(report.members) == 3
    reward = make_reward(tmp_path / "rm")
    assert isinstance(reward, EnsembleReward)
    assert reward.combine == "uncertainty"
    judged = list(dict.fromkeys((record.prompt, c.text) for record in records for c in record.candidates))
    parts = reward.detailed([prompt for prompt, _ in judged], [text for _, text in judged]).parts
    assert parts["mean"].mean() == pytest.approx(0, abs=1e-5)
    assert parts["mean"].std() == pytest.approx(1, abs=1e-5)
    assert parts["spread"].min() > 0  # drawn anew, the members differ
    assert evaluate_reward_model(tmp_path / "rm", records).accuracy is not None


def test_an_ensemble_on_one_trunk_stores_and_loads_it_once(trunk: Path, tmp_path: Path):
    records = comparisons(90)
    train_reward_model(records, out=tmp_path / "rm", kind="trunk", model=trunk, ensemble=3, plot=False)
    stored = sorted(
        path.parent.relative_to(tmp_path / "rm").as_posix() for path in tmp_path.rglob("rm/**/model.safetensors")
    )
    assert stored == ["trunk"]
    reward = make_reward(tmp_path / "rm")
    assert isinstance(reward, EnsembleReward)
    models = {id(member.reward.features.model) for member in reward.rewards.values()}  # type: ignore[attr-defined]
    assert len(models) == 1
    # As it was stored before: each member with a trunk of its own.
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "rm", old)
    for name in reward.rewards:
        shutil.copytree(old / "trunk", old / name / "trunk")
        file = json.loads((old / name / "reward.json").read_text())
        assert file["settings"]["features"].pop("shared") is True
        (old / name / "reward.json").write_text(json.dumps(file))
    shutil.rmtree(old / "trunk")
    prompts, texts = ["prompt 1", "prompt 2"], [" good soup", " bad"]
    assert make_reward(old)(prompts, texts) == pytest.approx(reward(prompts, texts))
    assert make_reward(tmp_path / "rm" / "member-2")(prompts, texts) == pytest.approx(
        reward.rewards["member-2"](prompts, texts)
    )
    shutil.copytree(tmp_path / "rm" / "member-1", tmp_path / "alone" / "member-1")
    with pytest.raises(ModelError, match="is a member of an ensemble, which shares a model with the others in"):
        make_reward(tmp_path / "alone" / "member-1")


@pytest.mark.parametrize("combine", quick(["worst"], ["mean", "worst", "uncertainty"]))
def test_the_figures_of_an_ensemble_are_those_of_the_reward_that_is_saved(trunk: Path, tmp_path: Path, combine: str):
    records = comparisons(90)
    report = train_reward_model(
        records, out=tmp_path / "rm", kind="trunk", model=trunk, ensemble=3, combine=combine, coefficient=3, plot=False
    )
    items = set(split_by_prompt(read_judgements(records), share=0.2, seed=0).heldout.items)
    heldout = [record for record in records if prompt_item({"prompt": record.prompt}) in items]
    loaded = evaluate_reward_model(tmp_path / "rm", heldout)
    assert loaded.accuracy == report.heldout.accuracy
    assert loaded.decided_lead == pytest.approx(report.heldout.decided_lead, rel=1e-4)


def test_all_kinds_of_records_are_learned_from_at_once(trunk: Path, tmp_path: Path):
    records = comparisons(30)
    records += [
        Ranking(
            prompt=f"q{n}", candidates=tuple(map(Candidate, (" good", " soup", " bad", " bad bad"))), ranks=(1, 2, 3, 4)
        )
        for n in range(5)
    ]
    records += [Edit(prompt=f"e{n}", candidates=(Candidate(" bad soup"),), edited=" good soup") for n in range(5)]
    records += [
        Rating(prompt=f"r{n}", candidates=(Candidate(text),), ratings={"quality": value, "safety": 3})
        for n in range(5)
        for text, value in ((" good", 5), (" bad", 1))
    ]
    report = train_reward_model(
        records, out=tmp_path / "rm", kind="trunk", model=trunk, weights={"quality": 2}, heldout=0.3, plot=False
    )
    assert report.heldout.best_of_four is not None
    reward = make_reward(tmp_path / "rm")
    detailed = reward.detailed(["q"], [" good"])  # type: ignore[attr-defined]
    assert any("quality" in name for name in detailed.parts)
    assert report.counts["rankings"] == 5


def test_the_reference_may_be_samples_or_a_policy(trunk: Path, tmp_path: Path):
    samples = [("p", " good"), ("p", " bad"), ("q", " soup soup")]
    train_reward_model(comparisons(), out=tmp_path / "a", kind="trunk", model=trunk, reference=samples, plot=False)
    scores = np.array(make_reward(tmp_path / "a")([p for p, _ in samples], [text for _, text in samples]))
    assert scores.mean() == pytest.approx(0, abs=1e-5)
    assert scores.std() == pytest.approx(1, abs=1e-5)
    report = train_reward_model(
        comparisons(), out=tmp_path / "b", kind="trunk", model=trunk, reference=trunk, max_new_tokens=4, plot=False
    )
    assert report.reference == "260 samples of the reference"  # 13 of each of 20 prompts


def test_a_trunk_refuses_a_policy_of_another_tokenizer(trunk: Path, tmp_path: Path):
    with pytest.raises(TokenizerMismatch, match=r"tokenizer of the policy 'embedded' \(1024 tokens\) is not that of"):
        train_reward_model(comparisons(), out=tmp_path / "rm", kind="trunk", model=trunk, reference="embedded")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "tree"}, UnknownName, "unknown kind of reward model 'tree'.*classifier, linear, svm, trunk"),
        ({"votes": "some"}, UnknownName, "votes"),
        ({"kind": "classifier", "pooling": "respnse"}, UnknownName, "pooling 'respnse'.*response"),
        ({"ensemble": 0}, ConfigError, "ensemble must be a whole number >= 1"),
        (
            {"kind": "trunk", "ensemble": 2, "bootstrap": False},
            ConfigError,
            "all members of the kind 'trunk' would be the same model",
        ),
        ({"layers": 0}, ConfigError, "layers must be a whole number >= 1"),
        ({"kind": "linear", "features": "hashed_ngrams", "layers": 1}, ConfigError, "where they read hidden states"),
        ({"heldout": 0}, ConfigError, "heldout must be a number between"),
        ({"heldout": 1.0}, ConfigError, "heldout must be a number between"),
        ({"margin_scale": -1}, ConfigError, "margin_scale"),
        ({"nonsense": 1}, ConfigError, "nonsense"),
        ({"kind": "trunk", "settings": {"num_train_epochs": 2}}, ConfigError, "settings are those of TRL's"),
        ({"kind": "trunk", "features": "hashed_ngrams"}, ConfigError, "are for the kinds linear and svm"),
        ({"group": "colour"}, ConfigError, "no record has the column 'colour'"),
        ({"kind": "trunk", "model": "./nowhere"}, ModelError, "does not exist"),
        ({"reference": [("a", 1)]}, ConfigError, r"must be \(prompt, response\)"),
        ({"reference": []}, ConfigError, "the reference has no samples"),
    ],
)
def test_options_that_cannot_work_leave_nothing(tmp_path: Path, options: dict[str, Any], error: Any, message: str):
    with pytest.raises(error, match=message):
        train_reward_model(comparisons(6), out=tmp_path / "rm", **options)
    assert list(tmp_path.iterdir()) == []


def test_weights_name_what_was_rated(tmp_path: Path):
    rated = [Rating(prompt=f"{n}", candidates=(Candidate(" a"),), ratings={"quality": 1 + n % 5}) for n in range(8)]
    with pytest.raises(UnknownName, match=r"unknown attribute of the ratings 'qualty'\. Did you mean 'quality'"):
        train_reward_model(rated, out=tmp_path / "rm", kind="trunk", weights={"qualty": 1})
    with pytest.raises(ConfigError, match="all weights are 0"):
        train_reward_model(rated, out=tmp_path / "rm", kind="trunk", weights={"quality": 0})
    with pytest.raises(ConfigError, match="no two responses to one prompt are rated differently"):
        train_reward_model(rated, out=tmp_path / "rm", kind="svm", features="hashed_ngrams")


def test_a_model_that_tells_nothing_apart_is_refused(trunk: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="get the same score"):
        train_reward_model(comparisons(), out=tmp_path / "rm", kind="trunk", model=trunk, reference=[("p", " a")] * 2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match="there already and not an empty folder"):
            train_reward_model(comparisons(), out=out, kind="trunk")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find(name, *rest)
    )
    with pytest.raises(MissingExtra, match=r"textrl-env\[rewards\]"):
        train_reward_model(comparisons(), out=tmp_path / "rm", kind="linear", features="hashed_ngrams")


def test_records_are_read_from_stores_and_from_files(tmp_path: Path):
    from textrl_env.preferences.record_json import record_to_dict
    from textrl_env.preferences.store import FeedbackStore

    records = comparisons(4)
    with FeedbackStore(tmp_path / "store.db") as store:
        store.add(records)
    lines = tmp_path / "records.jsonl"
    lines.write_text("".join(json.dumps(record_to_dict(record)) + "\n" for record in records))
    assert feedback_records(tmp_path / "store.db") == feedback_records(lines) == records
    trl = tmp_path / "trl.jsonl"
    trl.write_text('{"prompt": "p", "chosen": " a", "rejected": " b"}\n')
    assert feedback_records(trl)[0].candidates[0].text == " a"
    with pytest.raises(ConfigError, match="is no file"):
        feedback_records(tmp_path / "none.db")
    with pytest.raises(ConfigError, match="has no gold score"):
        gold_of("exact")
    assert gold_of("sentiment")(prompts=["The film was"], completions=[" great."])[0] > 0


def test_the_rewards_package_can_mix_a_trained_model_with_others(tmp_path: Path):
    train_reward_model(comparisons(), out=tmp_path / "rm", kind="linear", features="hashed_ngrams", plot=False)
    mixed = make_reward([(str(tmp_path / "rm"), 0.5), "length"])
    assert isinstance(mixed, CompositeReward)
    assert math.isfinite(mixed(["p"], [" good"])[0])


def test_a_reward_that_is_judged_gets_the_prompts_columns(tmp_path: Path):
    file = tmp_path / "wanted.py"
    file.write_text(
        "def score(prompts, completions, wanted, **columns):\n"
        "    return [float(text.count(word)) for text, word in zip(completions, wanted)]\n"
    )
    records = [
        Comparison(
            prompt=f"p{place}",
            candidates=(Candidate(" good"), Candidate(" bad")),
            preferred=place % 2,
            columns={"wanted": ("good", "bad")[place % 2]},
        )
        for place in range(8)
    ]
    accuracy = evaluate_reward_model(f"{file}:score", records).accuracy
    assert accuracy is not None
    assert (accuracy.value, accuracy.count) == (1.0, 8)
