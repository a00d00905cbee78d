"""Manifests: parse and validate YAML text into frozen values."""
