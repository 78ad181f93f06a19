"""The baselines: initialisers that others have proposed, for comparison."""
