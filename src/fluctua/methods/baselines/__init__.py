"""The baselines: published initialisers, for comparison."""
