"""`fluctua.fuse` on networks as tutorials write them: time and memory of a training step, before and after.

    python benchmarks/fuse.py [--threads 1] [--rounds 5] [--only sinabs ...]

Each network runs four times, in a process of its own: as it is written, in the fastest way that its framework offers,
fused, and fused with dense products in the place of sums over spikes. The processes take turns, so what slows the
machine down slows all alike. One thread is timed by the processor's time, more by the clock on the wall.
"""

import argparse
import ctypes
import gc
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from machine import machine
from tutorials import NETWORKS

WARM_UP = 6  # steps until the system lets a process keep its memory
WAYS = ("as written", "fastest own", "fused", "dense")


def worker(name: str, way: str, threads: int) -> None:
    """Make a step for every line that comes in, and say how long it took and how much memory there was at most."""
    import fluctua

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    _, written, own = NETWORKS[name]
    model, x, axis = (own if way == "fastest own" else written)()
    begun = time.perf_counter()
    if way == "dense":
        without_events()
    call = fluctua.fuse(model, x, time=axis) if way in ("fused", "dense") else model
    first = time.perf_counter() - begun
    resets = [
        getattr(m, reset)
        for m in torch.nn.Module.modules(model)
        for reset in ("reset_states", "reset_state", "reset")
        if hasattr(type(m), reset)
    ]
    parameters = list(torch.nn.Module.parameters(model))

    def step() -> None:
        for reset in resets:
            reset()
        output = call(x)
        output = output[0] if isinstance(output, tuple) else output
        (output * torch.linspace(0, 1, output.shape[-1])).sum(-1).mean().backward()  # type: ignore[no-untyped-call]
        for p in parameters:
            p.grad = None

    begun = time.perf_counter()
    step()
    first += time.perf_counter() - begun
    for _ in range(WARM_UP):
        step()
    print(first, added_by(step), flush=True)
    for _ in range(WARM_UP):
        step()
    for _ in sys.stdin:
        begun = clock()
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(clock() - begun, peak, flush=True)


def added_by(step: Callable[[], None]) -> float:
    """The memory in MB that a step needs at most beyond what the idle process holds. NaN where Linux does not tell."""
    gc.collect()
    if loops := sys.modules.get("fluctua.timeloop.cpu_loop"):  # a process without them shall not load numba
        loops.pool.clear()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
        idle = highest()
        step()
        return highest() - idle
    except (AttributeError, OSError):
        return math.nan


def highest() -> float:
    """The highest resident size so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def without_events() -> None:
    """Let no weight be added up spike by spike in this process."""
    from fluctua.fusion import folding, nodes, spikes

    setattr(spikes.Spikes, "_joins", lambda self, spiking: False)  # noqa: B010
    for module in (nodes, spikes):
        setattr(module, "MAX_DENSITY", -1.0)  # noqa: B010
    setattr(folding, "_FEW", 0.0)  # noqa: B010


def measured(name: str, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, peak memory in MB, what a step adds to it, and seconds of the first call, by way."""
    command = [sys.executable, __file__, "--threads", str(threads), "--worker", name]
    there: dict[str, Any] = {}
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:  # one after the other, so that none slows down the first call of another
        there[way] = subprocess.Popen([*command, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first, added = map(float, there[way].stdout.readline().split())
        found[way] = {"first": first, "added": added}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, process in there.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            took, peak = map(float, process.stdout.readline().split())
            seconds[way].append(took)
            found[way]["peak"] = peak
    for way, process in there.items():
        process.stdin.close()
        process.wait()
        found[way]["ms"] = 1e3 * statistics.median(seconds[way])
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="networks, by name")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, way = options.worker
        worker(name, way, options.threads)
        return
    print(f"{machine()}, {options.threads} thread(s), median of {options.rounds} turns\n")
    print(
        "| network | as written | fastest own | fused | faster | dense "
        "| peak MB: own | fused | a step's: own | fused | first call, s |"
    )
    print("|---" + 10 * "|--:" + "|")
    for name, (package, _, _) in NETWORKS.items():
        if (options.only and name not in options.only) or find_spec(package) is None:
            continue
        found = measured(name, options.threads, options.rounds)
        own, fused = found["fastest own"], found["fused"]
        least = min(found["as written"]["ms"], own["ms"])
        print(
            f"| {name} | {found['as written']['ms']:.0f} ms | {own['ms']:.0f} | {fused['ms']:.0f} "
            f"| {least / fused['ms']:.1f} | {least / found['dense']['ms']:.1f} "
            f"| {min(found['as written']['peak'], own['peak']):.0f} | {fused['peak']:.0f} "
            f"| {min(found['as written']['added'], own['added']):.0f} | {fused['added']:.0f} "
            f"| {fused['first']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
