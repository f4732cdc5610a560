"""Rounds of human feedback: sample, ask, learn a reward, learn a policy, measure."""

from textrl_agents.feedback.loop.run import LoopResult, run_loop
from textrl_agents.feedback.loop.settings import LoopSettings

__all__ = ["LoopResult", "LoopSettings", "run_loop"]
