"""Tests with the real consumers and peers; `make e2e` runs them."""
