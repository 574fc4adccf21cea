"""``python -m xconvert``."""

from xconvert.program import main

main()
