"""Without its extra, training says what to install."""

import subprocess
import sys

WITHOUT = """
import importlib.util, sys
hidden, real = ("pandas", "lightning"), importlib.util.find_spec
importlib.util.find_spec = lambda name, *others: None if name in hidden else real(name, *others)
sys.modules.update(dict.fromkeys(hidden))  # an import of them fails
try:
    from fluctua.lab.training.fit import fit
except ImportError as error:
    print(error)
"""


def test_training_names_the_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.stdout == 'training and studies need lightning, pandas: pip install "fluctua[train]".\n', done.stderr
