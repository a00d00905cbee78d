"""The quick answer of a `sync` that has nothing to do: `record` writes its notes, `check` reads them."""
