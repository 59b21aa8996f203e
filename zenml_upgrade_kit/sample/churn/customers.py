"""What the pipelines talk about. Python 3.8 syntax: this runs in releases from 0.43.0 on."""

from dataclasses import dataclass, field
from typing import Dict, List

from pydantic import BaseModel


class Report(BaseModel):
    """Stored as JSON by ZenML's pydantic materializer."""

    title: str
    accuracy: float
    columns: List[str]


@dataclass
class Segment:
    """A dataclass: ZenML has no materializer for it, it ends in cloudpickle."""

    name: str
    customers: int
    shares: Dict[str, float] = field(default_factory=dict)


class Rule:
    """An ordinary class: it ends in cloudpickle, by reference to this module."""

    def __init__(self, column, limit):
        self.column = column
        self.limit = limit

    def __eq__(self, other):
        return isinstance(other, Rule) and (self.column, self.limit) == (other.column, other.limit)

    def __repr__(self):
        return f"Rule({self.column!r}, {self.limit!r})"
