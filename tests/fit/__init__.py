"""Tests of the estimates: headers made here, measured tables, hostile bytes."""
