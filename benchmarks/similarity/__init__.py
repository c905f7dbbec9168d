"""Similarity: many CKA values beside the direct computation."""
