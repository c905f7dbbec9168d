"""Design matrices of nested probes: standardised rows, products by segments, Gram matrices."""
