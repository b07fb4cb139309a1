"""The commands that need no extra: each reads its own arguments, and is imported only when it runs."""

from collections.abc import Callable


def base_command(name: str) -> Callable[[list[str]], int] | None:
    """What runs a command that needs no extra, given the arguments after its name; None for the others."""
    if name == "serve":
        from sparserve.service.__main__ import main as serve

        return serve
    if name == "keys":
        from sparserve.service.security.keys_command import main as keys

        return keys
    if name in ("promote", "rollback"):
        from sparserve.models.cli.promotion import main as move

        return lambda argv: move([name, *argv])
    return None
