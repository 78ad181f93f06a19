"""Laws of the package as a whole: quick to import, and of use without its extras."""

import subprocess
import sys

import pytest

import fluctua

EXTRAS = ["lightning", "rich", "typer", "matplotlib", "h5py", "safetensors", "scipy", "pandas", "hypothesis"]


def python(code: str, *, blocked: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own in which some modules cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked or []}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


def output(code: str, *, blocked: list[str] | None = None) -> str:
    done = python(code, blocked=blocked)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the cost of an import ---

COST = """
from time import process_time
start = process_time()
import torch
begin = process_time()
import fluctua
imported = process_time()
fluctua.initialize, fluctua.inspect
print((imported - begin) / (begin - start), (process_time() - imported) / (begin - start))
"""


def test_an_import_costs_little_beyond_torch() -> None:
    for attempt in range(3):  # a busy machine may take long for anything, but not every time
        alone, with_all_that_a_call_needs = map(float, output(COST).split())
        # Of the time that torch takes: 1 ms and 0.2 s of 2 s.
        little = alone < 0.05 and alone + with_all_that_a_call_needs < 0.5
        assert little or attempt < 2, (alone, with_all_that_a_call_needs)
        if little:
            break


def test_an_import_alone_brings_nothing_else_in() -> None:
    heavy = ["torch", "numpy", "numba", "matplotlib"]
    assert output(f"import fluctua; print(*sys.modules.keys() & {heavy})").split() == []


# --- without the extras ---

BY_HAND = """
import torch, fluctua
from torch import nn
from fluctua.lab.data import make_randman, RandmanSettings, bin_events
from fluctua.neurons import LI, LIF
from fluctua.homeostasis import prime, scale_synapses
from fluctua.homeostasis.optimizers import make_optimizer
from fluctua.lab.training import TimeLoss

train, _, _ = make_randman(RandmanSettings(n_classes=2, samples_per_class=50), seed=0)
x = bin_events([train.events(i) for i in range(len(train))], n_units=train.n_units, dt=2e-3, duration=0.2)
y = torch.as_tensor(train.labels)
model = nn.Sequential(nn.Linear(20, 32, bias=False), LIF(), nn.Linear(32, 2, bias=False), LI(0.2))
report = fluctua.initialize(model, x, fluctua.Target(xi=1.0), readout=fluctua.Target(sigma=0.1), seed=0)
print(report)
print(fluctua.inspect(model, x, loss=lambda out: TimeLoss("max")(out, y)))
report.rows()
optimizer = make_optimizer("adam", model.parameters(), lr=0.05)
losses = []
for _ in range(40):
    optimizer.zero_grad()
    loss = TimeLoss("max")(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print("LOSSES", losses[0], losses[-1])
try:
    report.plot()
except ImportError as error:
    print("PLOT", error)
print("LOADED", *[name for name in BLOCKED if sys.modules.get(name) is not None])
"""


def test_torch_numpy_and_numba_are_enough_to_initialise_inspect_and_train() -> None:
    lines = output(f"BLOCKED = {EXTRAS}\n{BY_HAND}", blocked=EXTRAS).splitlines()
    assert [line.split()[0] for line in lines].count("population") == 2
    first, last = map(float, next(line for line in lines if line.startswith("LOSSES")).split()[1:])
    assert last < 0.5 * first
    assert 'PLOT a figure needs matplotlib, which is missing: pip install "fluctua[train]"' in lines
    assert lines[-1] == "LOADED"


def test_the_theory_needs_no_torch() -> None:
    code = """
from fluctua.theory import PspKernel, Target, xi_for_rate
from fluctua import Target as handed_on
kernel = PspKernel.exponential(20e-3, 10e-3, 2e-3)
assert handed_on is Target
print(float(xi_for_rate(5.0, kernel)), 'torch' in sys.modules and sys.modules['torch'] is not None)
"""
    xi, loaded = output(code, blocked=["torch", "numba", "scipy"]).split()
    assert 1 < float(xi) < 2
    assert loaded == "False"


@pytest.mark.parametrize("missing", [["typer"], ["lightning", "h5py"], ["matplotlib"]])
def test_the_command_line_names_the_extra_that_is_missing(missing: list[str]) -> None:
    code = "sys.argv = ['fluctua', 'demo']\nfrom fluctua.lab.cli import main\nmain()"
    done = python(code, blocked=missing)
    assert done.returncode == 1
    assert done.stderr == f'fluctua: the command line needs {", ".join(missing)}: pip install "fluctua[train]"\n'
    assert done.stdout == ""


# --- the public face ---


def test_every_public_name_can_be_had_and_is_listed() -> None:
    for name in fluctua.__all__:
        assert getattr(fluctua, name) is not None
        assert name in dir(fluctua)


def test_a_name_comes_from_where_it_lives() -> None:
    from fluctua.methods import initialize
    from fluctua.state import Report

    assert fluctua.Report is Report
    assert fluctua.initialize is initialize


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fluctua' has no attribute 'initialise'"):
        fluctua.initialise  # type: ignore[attr-defined]  # noqa: B018
