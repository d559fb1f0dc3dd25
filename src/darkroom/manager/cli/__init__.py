"""`darkroom`: the manager's command line. Commands import what they need when they run."""

from darkroom.manager.cli.program import main

__all__ = ["main"]
