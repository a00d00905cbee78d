"""Tests of modelfetch.manifest."""
