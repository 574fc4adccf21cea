"""The commands: one module each, with its ``command``, imported when it is wanted. They parse, call the library and print."""
