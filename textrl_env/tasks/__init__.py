"""Tasks: what is asked, and how the answers are judged.

task.py             the Task
built_in/           the tasks that ship, one file each; adding a file adds a task
registry.py         the names of tasks
format.py           how a task's prompts and the embedded model's training text are written
splits.py           which prompts are trained on, which are for validation, which are held out
assembly.py         from a task and its overrides to an environment's parts
conformance.py      check_task: a check for tasks of your own
enumeration.py      exact values, where every response can be written down
text_overlap.py     how much two texts share: ROUGE, and SQuAD's exact match and F1
reasoning_gym.py    every data set of reasoning_gym
"""

from textrl_env.tasks.registry import get_task, register_task, task_names
from textrl_env.tasks.task import Task

__all__ = ["Task", "get_task", "register_task", "task_names"]
