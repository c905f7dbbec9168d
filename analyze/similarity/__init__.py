"""Similarity of representations, computed in batch from moments."""
