"""Values and helpers that every other part uses: artifacts, digests, events, the report, files, units."""
