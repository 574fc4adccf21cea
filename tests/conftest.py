"""Set before NumPy and TensorFlow are imported, here and in the processes that tests start.

Narrow networks lose more to BLAS threads waiting for each other than they gain. PyTorch's OpenMP threads spin while they wait:
beside another busy process on two cores a run of timm's class took 36 and 60 s with two of them, 7 s with one. TensorFlow 2.21's
oneDNN kernels corrupt the heap when a narrow Xception is trained ("munmap_chunk(): invalid pointer" in 12 of 24 runs here, in 0
of 8 without them).
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
