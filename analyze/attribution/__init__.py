"""What a single neuron, or a group of them, does for a probe: what the score becomes without it."""
