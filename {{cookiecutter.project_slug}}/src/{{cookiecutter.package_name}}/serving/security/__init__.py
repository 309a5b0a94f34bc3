"""Who may call, from where and how fast: the same for all routes."""

from .exposure import check_exposure
from .guard import Guard

__all__ = ["Guard", "check_exposure"]
