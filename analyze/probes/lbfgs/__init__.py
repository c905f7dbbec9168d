"""L-BFGS on many problems in lock step, and what it learns of their curvature."""
