"""``python -m xconvert``."""

from xconvert.cli import main

main()
