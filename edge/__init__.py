"""The storey that translates: bytes to values and back, for every kind of client."""
