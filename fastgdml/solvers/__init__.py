"""Solvers of the training equations (-K + lambda I) x = y, alpha = -x."""
