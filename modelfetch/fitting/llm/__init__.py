"""GPU memory of language models, as the engine that runs them allocates it."""
