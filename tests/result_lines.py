"""Lines of results.jsonl, made up."""

import hashlib


def line(algorithm="ppo", task="sentiment", seed=0, **changes):
    """A line of results.jsonl. Keywords that name a metric set it."""
    metrics = {"score": 1.0, "gold_score": 0.5, "kl": 4.0, "length": 20.0, "distinct_1": 0.1, "distinct_2": 0.4}
    metrics |= {name: changes.pop(name) for name in list(changes) if name in (*metrics, "normalized", "objective")}
    metrics.setdefault("objective", (metrics["score"] or 0.0) - 0.05 * metrics["kl"])
    final = metrics["score"] or 0.0
    result = {
        "algorithm": algorithm,
        "task": task,
        "seed": seed,
        "budget": 1_000,
        "status": "done",
        "error": None,
        "tokens": 992,
        "metrics": metrics,
        "train_seconds": 2.0,
        "tokens_per_second": 496.0,
        "peak_memory_mib": 800.0,
        "curve": [{"tokens": n, "score": final * n / 992, "kl": 1.0, "length": 20.0} for n in (496, 992)],
        "samples": [{"prompt": "The soup was", "response": " good.", "score": 1.0, "gold_score": 0.5, "kl": 4.0}],
        "settings": {"n_steps": 8},
        "env": {},
        "kl_coef": 0.05,
        "eval_episodes": 64,
        "versions": {"textrl-env": "0.1.0", "torch": "2.13.0"},
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None, "python": "3.11.7"},
        "started": "2026-11-21T07:00:00+00:00",
        **changes,
    }
    parts = [result[name] for name in ("algorithm", "task", "seed", "budget", "settings", "env", "eval_episodes")]
    return {"key": hashlib.sha256(repr(parts).encode()).hexdigest()[:16], **result}


def failed(*args, error="RewardTimeout: it did not answer", **changes):
    return line(*args, **changes) | {
        "status": "failed", "error": error, "metrics": {}, "curve": [], "samples": [],
    }  # fmt: skip


def study(seeds=3):
    """Three algorithms on two tasks; of one task the optimum is known. PPO's KL is 4, so that it is charged 0.2."""
    lines = []
    for seed in range(seeds):
        spread = 0.1 * (seed - 1)
        for algorithm, level in (("reference", 0.0), ("ppo", 1.0), ("dqn", 0.5)):
            kl = 0.0 if algorithm == "reference" else 4.0
            score = level + spread * (level > 0)
            lines.append(line(algorithm, "sentiment", seed, score=score, kl=kl))
            lines.append(line(algorithm, "exact", seed, score=score, kl=kl, normalized=0.9 * level))
    return lines
