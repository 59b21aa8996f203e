"""One value of every kind that people store with ZenML, as code of a team."""
