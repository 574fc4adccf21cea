"""Set before NumPy is imported: narrow networks lose more to BLAS threads waiting for each other than they gain."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
