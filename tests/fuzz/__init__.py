"""Fuzzing of everything that reads a stranger's file: ``python -m tests.fuzz``, or ``make fuzz``.

- ``mutate``: changes to bytes; ``nodes``: changes to what the bytes are made of, after which checksums and lengths are right;
  ``json_values``: changes to JSON.
- ``parsing`` and ``seeds``: small valid files of every format, taken apart; ``generated``: files that hypothesis makes up.
- ``targets``: what is done with an input, all that reading a stranger's file does; ``law``: what must then hold.
- ``worker`` runs inputs in a process of its own, ``campaign`` watches it from outside, minimises and files what it finds.
"""
