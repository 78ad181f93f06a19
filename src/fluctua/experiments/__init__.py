"""Experiments that a user can run with one command each."""
