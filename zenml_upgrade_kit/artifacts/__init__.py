"""Artifact reload: every artifact version is loaded by the old and by the new release, and the values are compared."""
