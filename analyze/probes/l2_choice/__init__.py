"""The penalty of each probe by rows that its fit does not see: folds of moments, a held-out part, a race."""
