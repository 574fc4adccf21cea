"""The faults themselves: wrong weights, wrong computations, wrong files. Each says what the verifier must make of it."""

from tests.mutants import computed, files, kernels, norms, numbers, places

__all__ = ["computed", "files", "kernels", "norms", "numbers", "places"]
