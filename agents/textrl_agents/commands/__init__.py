"""The commands of `textrl`, one file each. They import what they run when they run, so that `--help` is quick."""
