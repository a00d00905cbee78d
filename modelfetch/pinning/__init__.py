"""Pinning: what a manifest leaves open is resolved once and written into it, everything else kept byte for byte.

`pins` decides (pure), `tree` and `edits` know the text, `document` reads and replaces the file, `lookup` asks the
sources, `process` is the command.
"""
