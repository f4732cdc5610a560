"""`textrl bench finetune`: agents that steer fine-tuning, held against the best schedule there is.

It is no `textrl bench run`: a cell there is judged by the text that a policy writes to held-out prompts, and the agents
here write none. What they share is the pool of jobs and the report.

plan.py        what is run, with every number
jobs.py        the pieces of work, in stages, and which of them are done
work.py        an agent's learning, a schedule on other data, PPO tuned by a table
findings.py    what the results say: shares of the optimum, intervals, transfer
figure.py      learning curves, and the rates of the schedules
report.py      report.md, report.html and results.json
run.py         all of it; it can be stopped anywhere and go on
"""
