"""The frozen model: its weights, its layers, what their axes mean, and the hooked forward pass."""
