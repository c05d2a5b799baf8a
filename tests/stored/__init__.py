"""What each version of the platform has stored: specs, a database, and a training's names."""

from pathlib import Path

STORED = Path(__file__).parent
VERSIONS = sorted(file.parent.name for file in STORED.glob("*/database.sql"))
