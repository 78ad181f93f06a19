"""Grids of runs that can be stopped and go on, on the cores of a machine or on a cluster."""
