"""The optimisers of logistic probes, and what makes them converge fast."""
