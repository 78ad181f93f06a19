"""What the wiring of a model can be refused for."""


class WiringError(ValueError):
    """The model's wiring cannot be read; the message says why and what to do."""
