from tests.unit.selfsup.conftest import two_processes

__all__ = ["two_processes"]
