"""Learning rates that several algorithms were tuned to, as schedules over a run (see `WarmupSchedule.of`)."""

# Shares of the default for the model's size.
HALF = {"scale": 0.5}
# For `sentiment`, whose scores differ more than those of the other tasks, which lie between 0 and 1.
FULL = {"scale": 1.0}
# For `exact`, which has a model of random weights, six tokens and a policy that moves far.
FALLING = {"peak": 3e-3, "final": 0.0}
