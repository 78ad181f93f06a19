"""What of an outcome is a function of setting and seed."""

from dataclasses import replace

from fluctua.lab.sweeps.study import Outcome


def timeless(outcome: Outcome) -> Outcome:
    """Without the seconds, which no seed decides."""
    return replace(outcome, values={name: v for name, v in outcome.values.items() if "seconds" not in name})
