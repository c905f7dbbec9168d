"""Probes: ours and the strongest peers on the same columns."""
