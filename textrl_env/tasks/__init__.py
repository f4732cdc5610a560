"""Tasks: what is asked, and how the answers are judged."""

from textrl_env.tasks.registry import get_task, register_task, task_names
from textrl_env.tasks.task import Task

__all__ = ["Task", "get_task", "register_task", "task_names"]
