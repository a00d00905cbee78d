"""Values and helpers that every other package uses: artifacts, digests, events, the report, files, units."""
