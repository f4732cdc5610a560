"""The commands of `textrl`, one file each. Each imports what it runs when it runs, so that `--help` is quick."""
