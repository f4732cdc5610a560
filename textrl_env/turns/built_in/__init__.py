"""The turn environments that ship: one file each, which is the whole of its registration. Each has a `TURNS`."""
