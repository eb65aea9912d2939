"""Data sets as they lie on disks and on the hub: files and layouts in, rows out, and for every row where it came from.

`splits.py` is what the rest of the product reads them through. To add a kind of file, write a reader of its rows in chunks
and name its suffix in `file_kinds.py` and the reader in `local.py`.
"""
