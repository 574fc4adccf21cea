"""How fast and how small, as ratios within one run: ``python -m benchmarks``; README.md says how to read them."""
