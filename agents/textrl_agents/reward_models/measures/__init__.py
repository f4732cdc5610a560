"""How good a reward model is.

evaluation.py    accuracy, length bias, groups and best of four, of scores on judgements
shares.py        a share with its 95% interval
calibration.py   whether a stated probability is the share that is right
figures.py       an evaluation as rows of a table
"""
