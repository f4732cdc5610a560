"""`textrl bench overoptimize`: more optimisation of a learned reward, and from some point on worse responses.

The experiment of Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization"
(https://arxiv.org/abs/2210.10760), with a task's gold score as the truth, and the cures of Coste et al. 2023, "Reward
Model Ensembles Help Mitigate Overoptimization" (https://arxiv.org/abs/2310.02743).

plan.py              what is run, with every number; the presets
jobs.py              the pieces of work, in stages, and which of them are done
trunks.py            the policy's first layers, which the reward models read
sampling.py          responses of the reference, with their gold scores
proxies.py           simulated comparisons, and the reward models learned from them
shared_features.py   one pass of a trunk for all reward models that read it
candidate_scores.py  what each proxy gives to each candidate of best-of-n
rl.py                stock PPO against a proxy, measured on held-out prompts along the way
run.py               all of it, from a plan to a report; it can be stopped anywhere and go on
analysis/            curves, fits, figure and report
"""
