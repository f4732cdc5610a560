"""What a device could do at most: its peaks as measured, and the work of a rollout and an update held against them."""
