"""`textrl bench overoptimize`: from a plan to a report. It can be stopped anywhere, and what is done is not done again.

plan.json   what is run
logs/       what jobs that failed have printed
The rest is in `jobs.py` and `analysis/report.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from textrl_agents.benchmark.job_pool import jobs_failed, run_stages
from textrl_agents.benchmark.overoptimization.analysis.findings import Findings, read_findings
from textrl_agents.benchmark.overoptimization.analysis.report import write_report
from textrl_agents.benchmark.overoptimization.jobs import perform, stages
from textrl_agents.benchmark.overoptimization.plan import PLAN_FILE, OveroptimizationPlan
from textrl_agents.runs.atomic import foreign_names, locked_folder, write_atomically
from textrl_agents.training.extras import require
from textrl_agents.training.provenance import cores
from textrl_env.errors import ConfigError
from textrl_env.models.storage.loading import resolve_device
from textrl_env.user_values import check_whole, user_path


def run_overoptimization(
    plan: OveroptimizationPlan, out: str | Path, *, jobs: int | None = None, progress: bool = True
) -> Findings:
    """Do what `out` lacks of the plan, and write the report. jobs: side by side; None for one a core, one on a GPU.

    Raises ConfigError where `out` holds another plan or something else, BenchmarkStopped on Ctrl-C and SIGTERM, and
    TextRLError where a job failed; where only runs of PPO did, the report of the others is written first.
    """
    require("matplotlib", "stable_baselines3", "sklearn", *(["peft"] if plan.rl_settings.get("lora") else []))
    if jobs is not None:
        check_whole("jobs", jobs, 1)
    folder = user_path(out)
    _check_folder(folder, plan)
    side_by_side = jobs or (cores() if resolve_device(plan.device).type == "cpu" else 1)
    with locked_folder(folder):
        _check_folder(folder, plan)  # another run may have begun in between
        if not (folder / PLAN_FILE).is_file():
            write_atomically(folder / PLAN_FILE, json.dumps(plan.to_json(), indent=1) + "\n")
        failures = run_stages(stages(plan), perform, plan, folder, side_by_side=side_by_side, progress=progress)
        if any(job.kind != "ppo" for job in failures):
            raise jobs_failed(failures, folder)
        findings = read_findings(plan, folder)
        write_report(findings, folder)
        if failures:
            raise jobs_failed(failures, folder)
    return findings


def _check_folder(folder: Path, plan: OveroptimizationPlan) -> None:
    """Raise ConfigError where the folder holds another plan, or what is no such benchmark."""
    path = folder / PLAN_FILE
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out {str(folder)!r} is a file; a benchmark needs a folder")
    if path.is_file():
        stored = OveroptimizationPlan.read(path)
        if stored.key != plan.key:
            before, now = stored.to_json(), plan.to_json()
            differ = [
                f"{name} is {before[name]!r} there and {now[name]!r} here" for name in now if before[name] != now[name]
            ]
            raise ConfigError(f"{str(folder)!r} holds another plan: {'; '.join(differ)}. Choose another --out")
    elif others := foreign_names(folder, PLAN_FILE):
        raise ConfigError(f"out {str(folder)!r} is not empty, and what it holds is no benchmark: {others}")
