"""Run the command line with ``python -m``."""

from .commands import main

main()
