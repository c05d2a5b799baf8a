"""The command ``vicreg``."""
