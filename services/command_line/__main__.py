"""The entry point of ``cairn``."""

from __future__ import annotations

from services.command_line.commands import app


def main() -> None:
    app(prog_name="cairn")


if __name__ == "__main__":
    main()
