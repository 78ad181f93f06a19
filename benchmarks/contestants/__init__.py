"""Who takes part. Each contestant is a module with `build(workload, variant) -> step`; see `worker.py`."""

from dataclasses import dataclass

NETWORKS = ("W1", "W2", "W3")
ALL = (*NETWORKS, "W4")


@dataclass(frozen=True)
class Contestant:
    """A way to do the work.

    Attributes:
        name: as in the tables.
        module: in this folder.
        variant: handed to the module's `build`.
        workloads: that it takes part in.
        package: that must be there for it.
        library: whether it is another library, run in an environment that the user names.
    """

    name: str
    module: str
    variant: str
    workloads: tuple[str, ...]
    package: str = "torch"
    library: bool = False


def _library(name: str, module: str, variant: str, workloads: tuple[str, ...], package: str) -> Contestant:
    return Contestant(name, module, variant, workloads, package, library=True)


MATMUL_ONLY, STEPWISE, PASSES, RELU = "matmul-only", "matmul-only, step by step", "two passes", "ReLU"
PLAIN, FUSE = "fluctua", "fluctua, by fuse"
CHAIN, EVENTS = "fluctua fused", "fluctua fused, events"
INITIALISE, TRAIN = "fluctua.initialize", "training step"

CONTESTANTS = (
    Contestant(MATMUL_ONLY, "yardsticks", "batched", NETWORKS),
    Contestant(STEPWISE, "yardsticks", "stepwise", ("W3",)),
    Contestant(PASSES, "yardsticks", "passes", ("W4",)),
    Contestant(RELU, "yardsticks", "relu", ("W4",)),
    Contestant(PLAIN, "own", "plain", ALL, "fluctua"),
    Contestant(FUSE, "own", "fuse", ("W1", "W2"), "fluctua"),
    Contestant(CHAIN, "own", "chain", NETWORKS, "fluctua"),
    Contestant(EVENTS, "own", "events", ("W1", "W2"), "fluctua"),
    Contestant("fluctua, kept in bfloat16", "own", "compact", ("W4",), "fluctua"),
    Contestant("fluctua, reference engine", "own", "reference", ALL, "fluctua"),
    Contestant(INITIALISE, "own", "initialise", ("initialise",), "fluctua"),
    Contestant(TRAIN, "own", "plain", ("initialise",), "fluctua"),
    _library("snnTorch", "library_snntorch", "eager", ALL, "snntorch"),
    _library("snnTorch, compiled cell", "library_snntorch", "compiled", ("W1", "W3", "W4"), "snntorch"),
    _library("Norse", "library_norse", "cell", ALL, "norse"),
    _library("SpikingJelly", "library_spikingjelly", "cuba", ALL, "spikingjelly"),
    _library("SpikingJelly, delta synapse", "library_spikingjelly", "delta", ALL, "spikingjelly"),
    _library("sinabs, repaired", "library_sinabs", "repaired", ALL, "sinabs"),
    # _library("stork", "library_stork", "default", ALL, "stork"),
    # _library("spyx (JAX)", "library_spyx", "scan", ("W1", "W2", "W4"), "spyx"),
)


def of_workload(workload: str) -> list[Contestant]:
    """Those who take part in it, in the order of the tables."""
    return [c for c in CONTESTANTS if workload in c.workloads]
