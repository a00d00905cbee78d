"""Tests of modelfetch.care."""
