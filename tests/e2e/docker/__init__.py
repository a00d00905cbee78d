"""The stack under a real Docker Engine and a real Compose: what the tests here need to run them."""
