"""Foreign weight files, read lazily and checked before a byte of them is believed.

Each reader gives names, shapes and types from a file's tables alone, and the values of one tensor
at a time on request. ``open_weights`` picks the reader by what is in the file, not by its name.
"""
