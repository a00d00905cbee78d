"""modelfetch."""
