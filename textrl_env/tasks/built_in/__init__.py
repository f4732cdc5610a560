"""The tasks that ship: each file defines a `TASK`, whose name is the file's, and its `FORMAT` where it has one."""
