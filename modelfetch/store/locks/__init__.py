"""Locks between processes and containers, with heartbeats where flock does not work."""
