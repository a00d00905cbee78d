"""Manifests: YAML text to frozen values."""
