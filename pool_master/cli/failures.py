"""What a command can end with when it does not do what was asked, each with its exit code.

Rules: commands raise one of these and nothing else; `app.main` alone prints them, in one line.
"""

from typing import ClassVar, Final

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130


class CliError(Exception):
    """A command's end, in one line for a person; `exit_code` is for programs."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class Refused(CliError):
    """The pool said no: a XenAPI code and its parameters.

    `names` holds what is known of the references among them, gathered while the connection still stands.
    """

    def __init__(self, description: list[str]) -> None:
        super().__init__(" ".join(description))
        self.description = description
        self.names: dict[str, str] = {}

    @property
    def code(self) -> str:
        """The XenAPI code."""
        return self.description[0] if self.description else "INTERNAL_ERROR"


class NotFound(CliError):
    """The pool has no such object, or more than one."""


class Failed(CliError):
    """Something other than the pool's answer is wrong; the text says what."""


class Misused(CliError):
    """The command line means nothing."""

    exit_code = EXIT_USAGE


class Unreachable(CliError):
    """No server answers, or what answers is not one."""

    exit_code = EXIT_UNREACHABLE


class Interrupted(CliError):
    """Somebody pressed Ctrl-C; the text says what goes on regardless."""

    exit_code = EXIT_INTERRUPTED
