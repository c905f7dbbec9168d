"""Geometry of a layer: how many dimensions its rows fill, and how evenly."""
