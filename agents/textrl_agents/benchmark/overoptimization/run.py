"""`textrl bench overoptimize`: from a plan to a report. It can be stopped anywhere, and what is done is not done again.

plan.json   what is run
logs/       what jobs that failed have printed
The rest is in `jobs.py` and `analysis/report.py`.
"""

from __future__ import annotations

from pathlib import Path

from textrl_agents.benchmark.job_pool import jobs_failed, run_stages
from textrl_agents.benchmark.overoptimization.analysis.findings import Findings, read_findings
from textrl_agents.benchmark.overoptimization.analysis.report import write_report
from textrl_agents.benchmark.overoptimization.jobs import perform, stages
from textrl_agents.benchmark.overoptimization.plan import OveroptimizationPlan
from textrl_agents.training.extras import require
from textrl_agents.training.provenance import cores
from textrl_env.models.storage.loading import resolve_device
from textrl_env.user_values import check_whole


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
    side_by_side = jobs or (cores() if resolve_device(plan.device).type == "cpu" else 1)
    with plan.holding(out) as folder:
        failures = run_stages(stages(plan), perform, plan, folder, side_by_side=side_by_side, progress=progress)
        if any(job.kind != "ppo" for job in failures):
            raise jobs_failed(failures, folder)
        findings = read_findings(plan, folder)
        write_report(findings, folder)
        if failures:
            raise jobs_failed(failures, folder)
    return findings
