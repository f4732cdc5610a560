"""Human feedback: who gives it, how it is asked for, and how good it is."""
