"""Beside the library: data sets, training, networks by name, studies, sweeps, the demo and the command line.

Nothing outside this folder imports it.
"""
