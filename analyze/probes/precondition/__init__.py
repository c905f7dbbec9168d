"""Approximate inverse Hessians of nested probes: class Grams, and their factors."""
