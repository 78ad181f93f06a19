"""Has a kernel become slower? Forward and backward of each fused loop, against the figures kept in `kernels.json`.

    python benchmarks/kernels.py            # compare; the exit status is 1 if a kernel is slower than it was
    python benchmarks/kernels.py --save     # keep the figures of this run

What is kept and compared is not seconds but the multiple of two elementwise passes over a tensor of the same size,
measured in turns with the kernels, so that a change of machine or load hardly shows.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from contestants import PASSES
from contestants.steps import Step, gradient_step
from contestants.yardsticks import build
from results import table
from timing import interleaved, medians
from torch import Tensor, nn
from workloads import DT, TAU_MEM, TAU_SYN, THRESHOLD, W4, Workload

from fluctua.layers import FusedSequential, Recurrent
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF

KEPT = Path(__file__).with_name("kernels.json")
SIZE = W4.sized(steps=350, batch=64, shape=(512,))
TINY = W4.sized(steps=6, batch=2, shape=(8,))
TAUS = TAU_MEM, TAU_SYN, DT


def kernels(workload: Workload) -> dict[str, Step]:
    """A step for each, and one for the yardstick."""
    (n,) = workload.shape
    spread = torch.linspace(0.8, 1.2, n)
    spikes = (torch.from_numpy(workload.current) > 0.55).float()  # 4 %

    def lif(**options: object) -> LIF:
        return LIF(**{"tau_mem": TAU_MEM, "tau_syn": TAU_SYN, "dt": DT, "threshold": THRESHOLD, **options})  # type: ignore[arg-type]

    loops: dict[str, Callable[[Tensor], Tensor]] = {
        "LIF": lif(),
        "LIF, delta synapse": lif(tau_syn=None, threshold=1.0),
        "LIF, reset by subtraction": lif(reset="subtract"),
        "LIF, differentiable reset": lif(differentiable_reset=True),
        "LIF, time constant of each neuron": lif(tau_mem=TAU_MEM * spread, tau_syn=TAU_SYN * spread),
        "LIF, learnt time constants": lif(learn_tau=True),
        "LI": LI(*TAUS),
        "AdaptiveLIF": AdaptiveLIF(*TAUS, threshold=THRESHOLD),
        "AdaptiveLIF, by a current": AdaptiveLIF(*TAUS, threshold=THRESHOLD, kind="current"),
        "ExcInhLIF": _both_ports(ExcInhLIF(dt=DT)),
        "Linear and LIF in a FusedSequential": _of(spikes, FusedSequential(nn.Linear(n, n, bias=False), lif())),
        "Recurrent LIF": Recurrent(lif(), nn.Linear(n, n, bias=False)),
    }
    return {PASSES: build(workload, "passes"), **{name: gradient_step(loop, workload) for name, loop in loops.items()}}


def _both_ports(neurons: ExcInhLIF) -> Callable[[Tensor], Tensor]:
    """The current as excitation, and as inhibition."""
    return lambda current: neurons(current, current)  # type: ignore[no-any-return]


def _of(spikes: Tensor, layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer on spikes, whatever the current."""
    return lambda current: layer(spikes)  # type: ignore[no-any-return]


def measured(workload: Workload, rounds: int, only: Collection[str] = ()) -> dict[str, float]:
    """Each kernel's time as a multiple of the yardstick's; `only` those named, or all."""
    steps = {name: step for name, step in kernels(workload).items() if not only or name in (*only, PASSES)}
    middle = medians(interleaved(steps, rounds))
    return {name: round(seconds / middle[PASSES], 2) for name, seconds in middle.items() if name != PASSES}


def slower(now: Mapping[str, float], kept: Mapping[str, float], tolerance: float) -> list[str]:
    """Kernels that take more than `tolerance` times what they took."""
    return [name for name, ratio in now.items() if ratio > tolerance * kept.get(name, ratio)]


def comparison(now: Mapping[str, float], kept: Mapping[str, float]) -> str:
    """A Markdown table."""
    rows = [
        (name, f"{kept[name]:.2f}" if name in kept else "", f"{ratio:.2f}", f"{ratio / kept.get(name, ratio):.2f}")
        for name, ratio in now.items()
    ]
    return table((f"/ {PASSES}", "kept", "now", "change"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1.5, help="how many times slower is too slow")
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--only", nargs="+", default=[], help="names of kernels, as in the table")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--quick", action="store_true", help="so small that the numbers mean nothing; to try it out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    kept = json.loads(options.kept.read_text()) if options.kept.exists() else {}
    now = measured(TINY if options.quick else SIZE, options.rounds, options.only)
    print(comparison(now, kept))
    if options.save:
        options.kept.write_text(json.dumps(kept | now, indent=1) + "\n")
    elif late := slower(now, kept, options.tolerance):
        sys.exit(f"slower than {options.tolerance:g} times what was kept: {', '.join(late)}")


if __name__ == "__main__":
    main()
