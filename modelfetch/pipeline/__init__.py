"""From a manifest to files in place: resolve, plan, check, transfer, place, report."""
