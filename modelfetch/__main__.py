"""``python -m modelfetch`` is the console script."""

from modelfetch.cli import main

main()
