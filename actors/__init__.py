"""The storey that waits: Trio tasks, their mailboxes, their supervision."""
