"""Packages that training and studies need; imported first, this says what to install."""

from importlib.util import find_spec

NEEDED = ("lightning", "rich", "pandas", "safetensors", "scipy", "matplotlib", "joblib", "jinja2", "h5py")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ImportError(f'training and studies need {", ".join(missing)}: pip install "fluctua[train]".')
