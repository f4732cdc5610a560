"""Make the embedded tokenizer, policies and reward model from nothing: `python -m textrl_env.embedded.build`.

The text is written by the grammar, so nothing is downloaded. The same seed, thread count and library versions
give the same files. They are made in a temporary folder and put in place at the end, so a build that fails or
is interrupted leaves the old ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import tokenizers
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from textrl_env.embedded.corpus import FORMATS, chat_text, tokenizer_texts, train_tokenizer
from textrl_env.embedded.policy_training import held_out_losses, sample_completions, train_policy, well_formed_share
from textrl_env.embedded.reward_training import (
    MARGIN,
    Source,
    candidates,
    pair_accuracy,
    score_texts,
    train_reward_model,
)
from textrl_env.embedded.turn_corpus import PLAYERS
from textrl_env.embedded.turn_training import train_turn_taking, turn_metrics
from textrl_env.language.gold import gold_sentiment
from textrl_env.language.grammar import continue_review, review_prompts
from textrl_env.models.storage.embedded import HASHES, NAMES, ROOT
from textrl_env.rewards import make_reward, score_episodes
from textrl_env.tasks import get_task

METRICS = "metrics.json"


def build(
    out: Path, *, seed: int, steps: int, turn_steps: int, reward_steps: int, per_source: int, held_out: int
) -> dict[str, Any]:
    """Make all assets, write them to `out`, and return what stands in its metrics.json.

    `steps`, `turn_steps` and `reward_steps` are updates of the three models, `per_source` the texts of each source for
    each prompt, `held_out` the size of the samples that are measured.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    streams = {name: Random(f"{name} {seed}") for name in ("tokenizer", "policy", "test", "pairs", "test pairs")}

    tokenizer = train_tokenizer(tokenizer_texts(streams["tokenizer"], 10_000))
    policy = train_policy(tokenizer, streams["policy"], steps)
    learned = review_prompts("train", "validation")
    pools = candidates(policy, tokenizer, streams["pairs"], prompts=learned, per_source=per_source)
    reward = train_reward_model(tokenizer, pools, streams["pairs"], reward_steps)

    prompts = review_prompts("heldout")
    asked = [prompts[i % len(prompts)] for i in range(held_out)]
    answered = sample_completions(policy, tokenizer, asked)
    gold = gold_sentiment(asked, answered)
    proxy = score_texts(reward, tokenizer, [a + b for a, b in zip(asked, answered, strict=True)])
    tokens = [len(ids) for ids in _ids(tokenizer, answered)]
    written = [len(ids) for ids in _ids(tokenizer, [continue_review(streams["test"], prompt) for prompt in asked])]
    tests = candidates(policy, tokenizer, streams["test pairs"], prompts=prompts, per_source=min(16, per_source))
    scores = [score_texts(reward, tokenizer, [candidate.text for candidate in pool]) for pool in tests]
    turns = taught_turns(policy, tokenizer, seed, turn_steps)
    metrics = {
        "policy": {
            "parameters": policy.num_parameters(),
            "held_out_loss_nats_per_token": held_out_losses(policy, tokenizer, streams["test"], held_out),
            "well_formed_share": well_formed_share([a + b for a, b in zip(asked, answered, strict=True)]),
            "tokens_to_eos": {"mean": fmean(tokens), "max": max(tokens), "grammar_mean": fmean(written)},
            "gold_score": {"mean": fmean(gold), "std": stdev(gold)},
            "samples": [a + b for a, b in zip(asked, answered, strict=True)][:12],
        },
        "reward": {
            "parameters": reward.num_parameters(),
            "margin": MARGIN,
            "held_out_pair_accuracy": _accuracies(tests, scores),
            "score_of_policy_samples": {"mean": fmean(proxy), "std": stdev(proxy)},
            "correlation_with_gold": torch.corrcoef(torch.tensor([gold, proxy], dtype=torch.float64))[0, 1].item(),
        },
        "tasks": {name: task_metrics(name, policy, tokenizer, held_out, seed=seed) for name in FORMATS},
        "turns": {name: turn_metrics(name, turns, tokenizer, held_out, seed=seed) for name in PLAYERS},
        "build": {
            "seed": seed,
            "steps": steps,
            "turn_steps": turn_steps,
            "reward_steps": reward_steps,
            "texts_per_source_and_prompt": per_source,
            "held_out_samples": held_out,
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 1),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "python": platform.python_version(),
        },
    }
    write_assets(out, tokenizer, {"policy": policy, "turns": turns, "reward": reward}, metrics)
    return metrics


def build_turns(out: Path, *, seed: int, turn_steps: int, held_out: int) -> dict[str, Any]:
    """Make the model that takes turns alone, from the policy that lies in `out`, and return the new metrics.

    It is the one that `build` would make with the same settings.
    """
    tokenizer = AutoTokenizer.from_pretrained(out / "policy")
    policy: Any = AutoModelForCausalLM.from_pretrained(out / "policy", dtype=torch.float32)
    turns = taught_turns(policy, tokenizer, seed, turn_steps)
    metrics: dict[str, Any] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    metrics["turns"] = {name: turn_metrics(name, turns, tokenizer, held_out, seed=seed) for name in PLAYERS}
    metrics["build"]["turn_steps"] = turn_steps
    write_assets(out, tokenizer, {"turns": turns}, metrics)
    return metrics


def taught_turns(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int, steps: int
) -> LlamaForCausalLM:
    """Teach a copy of the policy to take turns, and round it to bfloat16, in which it is stored: half the bytes."""
    torch.manual_seed(seed)
    taught = train_turn_taking(policy, tokenizer, Random(f"turns {seed}"), steps)
    for weight in taught.parameters():
        weight.data = weight.data.bfloat16().float()
    return taught


def task_metrics(
    name: str, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, held_out: int, *, seed: int
) -> dict[str, Any]:
    """What the policy, as the reference of that task, scores on about `held_out` answers to its held-out prompts.

    seed: decides the answers by itself, so that they can be measured again without making the policy again.
    """
    torch.manual_seed(seed)
    task, form = get_task(name), FORMATS[name]
    rows = form.rows("heldout") * max(1, held_out // len(form.rows("heldout")))
    prompts = [row["prompt"] for row in rows]
    texts = [text if isinstance(text, str) else chat_text(tokenizer, text, to_answer=True) for text in prompts]
    answers = sample_completions(policy, tokenizer, texts, max_new_tokens=task.max_new_tokens)
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    scored = [score_episodes(make_reward(each), prompts, answers, None, columns) for each in (task.reward, task.gold)]
    score, gold = (each.scores for each in scored)
    return {
        "score": {"mean": score.mean(), "std": score.std()},
        "gold_score": {"mean": gold.mean(), "std": gold.std()},
        "well_formed_share": fmean(form.well_formed(row, text) for row, text in zip(rows, answers, strict=True)),
        "samples": [text + answer for text, answer in zip(texts, answers, strict=True)][:3],
    }


def _accuracies(pools: list[list[Any]], scores: list[list[float]]) -> dict[str, dict[str, float]]:
    """Pair accuracy over all sources and within each."""
    groups: dict[str, set[Source]] = {
        "all": {"grammar", "policy", "spoilt"},
        "grammar": {"grammar"},
        "policy": {"policy"},
        "spoilt": {"spoilt"},
    }
    rows = {}
    for name, sources in groups.items():
        accuracy, pairs = pair_accuracy(pools, scores, margin=MARGIN, sources=sources)
        rows[name] = {"accuracy": accuracy, "pairs": pairs}
    return rows


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False).input_ids)


def write_assets(
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    models: Mapping[str, PreTrainedModel],
    metrics: dict[str, Any],
) -> None:
    """Write the folder of each model, the metrics and the list of hashes, beside `out` first, then into it.

    Folders of other models stay as they are, and so do their hashes.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".assets-", dir=out) as scratch:
        made = Path(scratch)
        for name, model in models.items():
            (model.bfloat16() if name == "turns" else model).save_pretrained(made / name)
            tokenizer.padding_side = "right" if name == "reward" else "left"
            tokenizer.save_pretrained(made / name)
        (made / METRICS).write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        files = sorted(path for path in made.rglob("*") if path.is_file())
        for path in files:
            path.chmod(0o644)  # safetensors writes for the owner alone
        kept = [path for name in set(NAMES) - set(models) for path in (out / name).rglob("*") if path.is_file()]
        places = {path.relative_to(made).as_posix(): path for path in files}
        places |= {path.relative_to(out).as_posix(): path for path in kept}
        hashes = {place: hashlib.sha256(path.read_bytes()).hexdigest() for place, path in sorted(places.items())}
        (made / HASHES).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
        for name in models:
            if (out / name).exists():
                (out / name).rename(made / f"old-{name}")
            (made / name).rename(out / name)
        for name in (METRICS, HASHES):
            os.replace(made / name, out / name)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m textrl_env.embedded.build",
        description="Make the embedded tokenizer, policy and reward model from text of the built-in grammar.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ROOT, help="folder to write the assets to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the text, the weights and the sampling")
    parser.add_argument("--steps", type=int, default=3200, help="updates of the policy")
    parser.add_argument("--turn-steps", type=int, default=1400, help="updates of the policy that learns to take turns")
    parser.add_argument("--reward-steps", type=int, default=700, help="updates of the reward model")
    parser.add_argument("--per-source", type=int, default=24, help="texts of each source for each training prompt")
    parser.add_argument("--held-out", type=int, default=2000, help="documents and samples that are measured")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument(
        "--turns-alone", action="store_true", help="make the policy that takes turns alone, from the one that is there"
    )
    options = parser.parse_args(arguments)
    for name in ("steps", "turn_steps", "reward_steps", "per_source", "held_out", "threads"):
        if getattr(options, name) < (least := 2 if name in ("per_source", "held_out") else 1):
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()  # of saving, which takes no time
    settings = {name: value for name, value in vars(options).items() if name not in ("threads", "turns_alone")}
    if options.turns_alone:
        metrics = build_turns(**{name: settings[name] for name in ("out", "seed", "turn_steps", "held_out")})
    else:
        metrics = build(**settings)
    print(json.dumps(metrics, indent=2, ensure_ascii=False))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
