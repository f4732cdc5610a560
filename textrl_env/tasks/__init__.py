"""Tasks: what to generate from, what is rewarded, and within which limits.

registry.py         the Task and the names of tasks
assembly.py         from a task and its overrides to an environment's parts
conformance.py      check_task: a check for tasks of your own
sentiment.py        the default task: praise, by a learned reward model
exact.py            a task whose optimum is known (enumeration.py)
arithmetic.py  code.py  question.py              answers that can be verified
translate.py  summarize.py                       answers compared with a reference (text_overlap.py)
dialogue.py  detoxify.py  story.py  recommend.py open answers, judged by rules
reasoning_gym.py    every data set of reasoning_gym
"""

from textrl_env.tasks.registry import Task, get_task, register_task, task_names

__all__ = ["Task", "get_task", "register_task", "task_names"]
