"""`edgeqwen-compile` in this process, where torch and Olive are loaded once for all tests: a new one takes seconds."""

from __future__ import annotations

from click.testing import CliRunner, Result

from toolchain.cli import main


def compile(*arguments: object) -> Result:
    """Runs the command to its end."""
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="edgeqwen-compile", catch_exceptions=False)
