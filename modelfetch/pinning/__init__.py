"""Pin manifests: resolve what they leave open and write it into them, and add new entries.

`entry` decides what to pin and `detect` what kind of model a link is (both pure), `text_edits` and `append` change the
text, `document` reads and replaces the file, `upstream` queries the sources, `run` and `add` are the commands, and
`types` has the values of `add`.
"""
