"""Errors that users see: each says what is wrong, where, and what to do, and carries its exit code."""

from __future__ import annotations


class SparringError(Exception):
    """A problem the user can solve; the command line prints it as one line and exits with ``exit_code``."""

    exit_code = 6


class UsageError(SparringError):
    """A flag, a spec string or a combination of them is wrong."""

    exit_code = 2


class MissingPrerequisiteError(SparringError):
    """A package, a device or an extra that the command needs is not installed; the message has the command."""

    exit_code = 3


class MissingResourceError(SparringError):
    """A file, model, index or collection does not exist or cannot be reached."""

    exit_code = 4


class InputError(SparringError):
    """Input was found but is malformed or contradicts other input; the message starts with ``path:line:``."""

    exit_code = 5


class PartialSuccessError(SparringError):
    """The output was written, but some groups were quarantined; the message counts and lists them."""

    exit_code = 7
