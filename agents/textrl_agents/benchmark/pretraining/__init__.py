"""`textrl bench pretrain`: preferences while pretraining, beside plain pretraining and then reinforcement learning.

plan.py      what is run, with every number
task.py      what all of them are asked, and what provokes them
jobs.py      the pieces of work
measures.py  what each trained model is judged by
findings.py  means, intervals, and which are on the frontier
report.py, figure.py, run.py
"""
