"""Tasks: what to generate from, what is rewarded, and within which limits."""

from textrl_env.tasks.registry import Task, get_task, register_task, task_names

__all__ = ["Task", "get_task", "register_task", "task_names"]
