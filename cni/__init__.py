"""podwire: CNI plugins for Linux nodes."""

from __future__ import annotations

__version__ = "0.1.0"
