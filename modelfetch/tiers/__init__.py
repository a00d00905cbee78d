"""VRAM tiers: where they are found, which one is chosen, and what the environment changes in them."""
