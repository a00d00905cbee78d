"""The stack's ``.env``: one table of its variables, what a tier makes of them, and the block that holds them. Pure."""
