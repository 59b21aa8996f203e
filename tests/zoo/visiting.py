"""A module that is taken away after its object was stored."""

# ruff: noqa: UP035
# mypy: ignore-errors

from typing_extensions import Annotated
from zenml import pipeline, step


class Stork:
    """Gone in winter."""

    def __init__(self, name):
        self.name = name


@step
def arrive() -> Annotated[Stork, "object_of_a_lost_module"]:
    """An object whose class will not be there."""
    return Stork("Adebar")


@pipeline
def visit():
    """What is loaded later without its module."""
    arrive()
