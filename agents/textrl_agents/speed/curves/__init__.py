"""What a token costs, against the model's size, the rows sampled at once and the length of responses."""
