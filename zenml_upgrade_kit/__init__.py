"""ZenML Upgrade Kit: prove a ZenML upgrade on a copy before production is touched."""

__version__ = "0.1.0"
