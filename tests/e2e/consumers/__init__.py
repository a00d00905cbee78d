"""Small programs that run in the environments of the real consumers and print what these saw, as JSON."""
