"""Settings from the environment and the options of a command."""
