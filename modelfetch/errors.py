"""Every failure that a user can meet, with its slug and exit code.

The tree::

    ModelfetchError                 70  internal
    ├── UsageError                   2  usage, unknown-tier, not-placed
    ├── SettingError                78  invalid-setting, unknown-tier, not-placed, no-gpu, digest-required
    │   └── ManifestError           78  invalid-manifest (carries every problem of the file)
    ├── CredentialsError            77  missing-or-private, unauthorized, forbidden, gated, login-page, early-access
    ├── DestinationError            73  not-writable, foreign-file, outside-root, root-not-mounted, …
    ├── DiskError                   74  io-error, no-space, file-too-large
    ├── NotFoundError               66  not-found, unknown-revision, unknown-tag
    ├── IntegrityError              65  digest-mismatch, size-mismatch, unsupported-manifest, unsafe-archive, …
    │   └── NotAModelError          65  not-a-model, pickle-not-allowed
    ├── RetryLaterError             75  rate-limited, lock-timeout
    ├── UnreachableError            69  unreachable, timeout, server-error, offline, bad-response, insecure-redirect, …
    ├── FitError                     1  does-not-fit, unknown-model
    └── InterruptedSync        130/143  interrupted, terminated

``code`` is a stable slug (docs/reference/error-codes.md is its append-only table), ``exit_code`` the coarse reason
from sysexits, ``permanent`` means that retrying the same source can't help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

EXIT_PRECEDENCE = (78, 77, 73, 74, 66, 65, 75, 69)
"""If several errors occur, the exit code is the first of these that one of them has."""


class ModelfetchError(Exception):
    """The base of all errors that modelfetch raises.

    Args:
        message: One line: what failed, where and why.
        code: The slug; each class has a default.
        hint: One line: what to do about it.
        model: The manifest's name for the model concerned.
        uri: The artifact or source concerned, without credentials.
    """

    default_code: ClassVar[str] = "internal"
    default_exit: ClassVar[int] = 70
    default_permanent: ClassVar[bool] = True
    default_hint: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        model: str | None = None,
        uri: str | None = None,
        permanent: bool | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.exit_code = self.default_exit if exit_code is None else exit_code
        self.permanent = self.default_permanent if permanent is None else permanent
        self.hint = hint or self.default_hint
        self.model = model
        self.uri = uri

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the attributes: what a subclass was made from is not always in ``args``."""
        return _restored, (type(self), self.args, self.__dict__)

    def about(self, *, model: str | None = None, uri: str | None = None) -> Self:
        """Set the model and URI concerned, if not set yet; returns self, to be raised."""
        self.model = self.model or model
        self.uri = self.uri or uri
        return self

    def each(self) -> tuple[ModelfetchError, ...]:
        """The errors that a report lists: this one, unless it represents several."""
        return (self,)

    def as_dict(self) -> dict[str, Any]:
        """The error as the report shows it."""
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            "model": self.model,
            "uri": self.uri,
            "message": self.message,
            "hint": self.hint,
        }


def _restored(kind: type[ModelfetchError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ModelfetchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class UsageError(ModelfetchError):
    """The command line is wrong."""

    default_code = "usage"
    default_exit = 2
    default_hint = "`modelfetch COMMAND --help` lists its options"


class SettingError(ModelfetchError):
    """A setting (environment variable, file of settings) is invalid."""

    default_code = "invalid-setting"
    default_exit = 78
    default_hint = "correct it, or leave it empty: an empty variable counts as unset"


def unusable_value(
    message: str, *, variable: str | None, code: str | None = None, hint: str | None = None
) -> UsageError | SettingError:
    """Return the error for a value that this run can't use; ``variable`` is the one that gave it, None for a caller."""
    if variable is None:
        return UsageError(message, code=code, hint=hint)
    return SettingError(f"{variable}: {message}", code=code, hint=hint)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem of a manifest; ``line`` and ``column`` start at 1, 0 means the whole file."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.file}{place}: {self.message}"


class ManifestError(SettingError):
    """A manifest is invalid; ``problems`` lists everything that is wrong with it."""

    default_code = "invalid-manifest"
    default_hint = "`modelfetch schema` prints every key and its possible values"

    def __init__(self, problems: Sequence[Problem], **kwargs: Any) -> None:
        self.problems = tuple(sorted(problems))
        if kwargs.get("hint") is None:
            kwargs["hint"] = _validate_hint(dict.fromkeys(p.file for p in self.problems if p.line))
        super().__init__("\n".join(str(p) for p in self.problems), **kwargs)

    def each(self) -> tuple[ModelfetchError, ...]:
        """One error for each problem."""
        return tuple(ManifestError([p], code=self.code, hint=self.hint) for p in self.problems)


def _validate_hint(files: Iterable[str]) -> str | None:
    import shlex

    names = [shlex.quote(file) for file in files if file.endswith((".yaml", ".yml"))]
    return f"correct it, then check it: modelfetch validate {' '.join(names)}" if names else None


class CredentialsError(ModelfetchError):
    """Credentials are missing or refused, or terms were not accepted."""

    default_code = "unauthorized"
    default_exit = 77
    default_hint = "set a token for this host, or check that the one in use may read it"


class DestinationError(ModelfetchError):
    """The root can't be written, a path leads outside it, or it has a file that modelfetch did not create."""

    default_code = "not-writable"
    default_exit = 73
    default_hint = "check who owns the folder and how it is mounted"


class DiskError(ModelfetchError):
    """The disk failed or is full."""

    default_code = "io-error"
    default_exit = 74
    default_hint = "check the disk and its mount (`dmesg`), then run it again: what was fetched is kept"


class NotFoundError(ModelfetchError):
    """It does not exist upstream."""

    default_code = "not-found"
    default_exit = 66
    default_hint = "check the spelling, the revision or tag, and whether it was renamed or withdrawn upstream"


class IntegrityError(ModelfetchError):
    """The bytes are not the expected ones."""

    default_code = "digest-mismatch"
    default_exit = 65
    default_hint = "upstream changed, or the data was altered on the way: check the expected digest against the source"


class PinMismatchError(IntegrityError):
    """Upstream has another file than the one that is pinned."""


class NotAModelError(IntegrityError):
    """The bytes are not a model: a web page, an error message, a broken header, a pickle."""

    default_code = "not-a-model"
    default_hint = "open the source's page in a browser: it may need a login, or contain something other than weights"


class RetryLaterError(ModelfetchError):
    """It may work later: the rate was limited, or another process holds a lock."""

    default_code = "rate-limited"
    default_exit = 75
    default_hint = "run it again later: what was fetched is kept; a token raises most hubs' limits"


class UnreachableError(ModelfetchError):
    """No source could be reached, or it kept failing."""

    default_code = "unreachable"
    default_exit = 69
    default_permanent = False
    default_hint = "check the network, DNS and proxy settings, then run it again: what was fetched is kept"


class FitError(ModelfetchError):
    """A model or tier does not fit into the card's memory, or this could not be determined."""

    default_code = "does-not-fit"
    default_exit = 1


class InterruptedSync(ModelfetchError):  # noqa: N818 - an interruption is not an error of ours
    """A signal ended the work; partial work is kept for the next run."""

    default_code = "interrupted"
    default_exit = 130
    default_hint = "run it again: it continues where it stopped"


def exit_code_of(errors: Iterable[ModelfetchError]) -> int:
    """The exit code for these errors together; 0 when there are none."""
    return decisive_code([error.exit_code for error in errors])


def decisive_code(codes: Collection[int]) -> int:
    """Return the exit code that decides among several; 0 when there are none.

    An interruption takes precedence; a code outside the list (1, 2, 70) is used only if no code in the list occurred.
    """
    for code in (130, 143, *EXIT_PRECEDENCE):
        if code in codes:
            return code
    return max(codes, default=0)


def raise_decisive(errors: Sequence[ModelfetchError], exit_code: int) -> None:
    """Raise the first error that has a report's exit code; does nothing without one."""
    for error in errors:
        if error.exit_code == exit_code:
            raise error


def most_serious(errors: Sequence[ModelfetchError]) -> ModelfetchError:
    """Return the error that decides when one of several has to be raised: the first in `EXIT_PRECEDENCE`."""

    def rank(error: ModelfetchError) -> int:
        known = error.exit_code in EXIT_PRECEDENCE
        return EXIT_PRECEDENCE.index(error.exit_code) if known else len(EXIT_PRECEDENCE)

    return min(errors, key=rank)


def unique(errors: Iterable[ModelfetchError]) -> tuple[ModelfetchError, ...]:
    """Return the errors without those that repeat an earlier one word for word."""
    return tuple({(e.code, e.message, e.model, e.uri): e for e in reversed(list(errors))}.values())[::-1]


OF_THE_SOURCE = (CredentialsError, NotFoundError, IntegrityError, RetryLaterError, UnreachableError)
"""What fails with one source, and may work with another; a full disk is full for all of them."""
