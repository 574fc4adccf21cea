"""Commands that do more than one file at a time, or something else than converting: one module each, with its ``command``."""
