"""Proves, table by table, that a migrated database holds what the one before it held: nothing lost, nothing changed."""
