"""The rehearsal: copies of the backup, their migration, and what is proven by it."""
