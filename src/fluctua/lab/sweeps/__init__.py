"""Grids of runs that can be stopped and resumed, on the cores of a machine or on a cluster."""
