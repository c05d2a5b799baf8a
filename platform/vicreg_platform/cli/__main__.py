"""``python -m vicreg_platform.cli``: the same as ``vicreg``."""

from vicreg_platform.cli.commands import main

main()
