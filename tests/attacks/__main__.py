"""Write the attacks into ``fixtures/hostile/attacks``. Files of HDF5 that are there are left alone unless ``--all`` is said:
h5py's bytes differ by version and hour, those of Python's own code in Lambda layers by version.
"""

from __future__ import annotations

import sys

from tests.attacks import ATTACKS, FOLDER

chosen = [a for a in ATTACKS.values() if a.kept and ("--all" in sys.argv or a.same_bytes or not a.path().exists())]
for attack in chosen:
    attack.write(FOLDER)
print(f"{len(chosen)} of {len(ATTACKS)} attacks written to {FOLDER}")
