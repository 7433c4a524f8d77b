"""Faults that Taskflow has to survive: ``just faults``, ``just soak``."""
