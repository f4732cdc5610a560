"""`textrl bench finetune`: from a plan to a report. It can be stopped anywhere, and what is done is not done again."""

from __future__ import annotations

from pathlib import Path

from textrl_agents.benchmark.finetune.findings import Findings, read_findings
from textrl_agents.benchmark.finetune.jobs import perform, stages
from textrl_agents.benchmark.finetune.plan import RLLIB, FineTunePlan
from textrl_agents.benchmark.finetune.report import write_report
from textrl_agents.benchmark.job_pool import jobs_failed, run_stages
from textrl_agents.training.extras import require
from textrl_agents.training.provenance import cores
from textrl_env.user_values import check_whole


def run_finetune(plan: FineTunePlan, out: str | Path, *, jobs: int | None = None, progress: bool = True) -> Findings:
    """Do what `out` lacks of the plan, and write the report. jobs: side by side; None for one a core.

    Raises ConfigError where `out` holds another plan or something else, BenchmarkStopped on Ctrl-C and SIGTERM, and
    TextRLError where a job failed.
    """
    require("matplotlib", "stable_baselines3", *(["ray"] if RLLIB in plan.agents else []))
    if jobs is not None:
        check_whole("jobs", jobs, 1)
    with plan.holding(out) as folder:
        failures = run_stages(stages(plan), perform, plan, folder, side_by_side=jobs or cores(), progress=progress)
        if failures:
            raise jobs_failed(failures, folder)
        findings = read_findings(plan, folder)
        write_report(findings, folder)
    return findings
