"""Looks at an installation, and says what is wrong with it and what to do."""

from taskflow.doctor.examine import examine, unreachable
from taskflow.doctor.finding import Finding, Level, Limits

__all__ = ["Finding", "Level", "Limits", "examine", "unreachable"]
