"""Classes of the team's own. Python 3.8 syntax: this runs in releases from 0.43.0 on."""

# ruff: noqa: UP006, UP035, UP045
# mypy: ignore-errors

from dataclasses import dataclass, field
from enum import Enum
from typing import Dict, List, Optional

from pydantic import BaseModel


class Food(BaseModel):
    """ZenML stores it as JSON; inside another object it is pickled."""

    name: str
    grams: float
    tags: List[str] = []
    supplier: Optional[str] = None


class Climate(Enum):
    """A member of it ends in cloudpickle."""

    WARM = "warm"
    COLD = "cold"


@dataclass
class Fox:
    """A dataclass."""

    name: str
    legs: int = 4
    weights: Dict[str, float] = field(default_factory=dict)


class Meal:
    """An ordinary class that has a pydantic object inside."""

    def __init__(self, food, hour):
        self.food = food
        self.hour = hour


class Owl:
    """An ordinary class."""

    def __init__(self, name, eyes):
        self.name = name
        self.eyes = eyes


class Ledger:
    """An ordinary class that has a frame inside."""

    def __init__(self, frame):
        self.frame = frame


def doubled(number):
    """A function of a module: pickled by reference."""
    return number * 2
