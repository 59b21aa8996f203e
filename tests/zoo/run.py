"""Fill a ZenML store with the zoo: ``python run.py`` with a ZenML from 0.43.0 on."""

# ruff: noqa: UP006, UP032, UP035
# mypy: ignore-errors

import sys
from dataclasses import dataclass
from typing import Callable, Tuple

import zenml
from animals.pipelines import every_kind
from typing_extensions import Annotated
from zenml import pipeline, step


@dataclass
class Ticket:
    """A dataclass of the run script."""

    price: float


class Keeper:
    """An ordinary class of the run script that has the dataclass inside."""

    def __init__(self, name, ticket):
        self.name = name
        self.ticket = ticket


def greeting(name):
    """A function of the run script."""
    return "hello {}".format(name)


@step
def scripted() -> Tuple[
    Annotated[Keeper, "object_of_the_run_script"], Annotated[Ticket, "dataclass_of_the_run_script"]
]:
    """Objects of classes that are in ``__main__`` while they are stored."""
    return Keeper("Ada", Ticket(0.0)), Ticket(12.5)


@step
def scripted_function() -> Annotated[Callable, "function_of_the_run_script"]:
    """The same for a function."""
    return greeting


@pipeline
def of_the_run_script(with_functions: bool = False):
    """What only a run script has."""
    scripted()
    if with_functions:
        scripted_function()


if __name__ == "__main__":
    from visiting import visit  # only here: a load of what this script made imports this script

    functions = tuple(map(int, zenml.__version__.split(".")[:2])) >= (0, 58)
    every_kind(with_functions=functions)
    visit()
    of_the_run_script(with_functions=functions)
    sys.exit(0)
