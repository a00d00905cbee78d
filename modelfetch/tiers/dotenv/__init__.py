"""The stack's ``.env``: the table of its variables, the values that a tier sets, and the generated block. Pure."""
