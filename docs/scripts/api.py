"""The pages of the API: what a docstring calls "Example" is a section of examples to the site as well."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Rename the sections before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at one object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
