"""Batch Renormalization against batch normalization, trained near convergence."""
