"""The fast path of a `sync` that has nothing to do: `record` writes notes, `check` reads them."""
