"""The storey that decides: rules, ports, drivers, and the one bridge to asyncio."""
