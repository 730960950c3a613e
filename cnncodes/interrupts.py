"""Ctrl-C and SIGTERM without a traceback, from the start of the program to its end.

While modules are imported and options parsed there is nothing to clean up, so a signal ends the
process at once, with one line. While a command runs it raises KeyboardInterrupt, so that the
command can save its work; signals of the next second are taken for the same one, so that they
disturb nothing. An interrupted process ends without waiting for threads that still compute: they
would abort it, since Python ends them inside C++.

Ignored signals, as in a shell's background jobs, stay ignored. Only the command line uses this
module; a host program keeps its handlers.
"""

# Nothing is imported that is not loaded already: until all here is defined, a signal ends in a
# traceback. The module signal, which is built on this one, would first import enum and more.
import _frozen_importlib_external as _importing
import _signal  # type: ignore[import-not-found]
import _thread
import atexit
import os
import sys
import time

TYPE_CHECKING = False  # as typing's
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIGNALS: tuple[int, ...] = (_signal.SIGINT, _signal.SIGTERM)
SECONDS_UNTIL_AGAIN = 0.02
SECONDS_OF_ONE = 1.0  # in which signals count as one
# An extension module that is interrupted while it is made crashes, or reports another error.
_MAKING = tuple(
    getattr(_importing.ExtensionFileLoader, name).__code__
    for name in ("create_module", "exec_module")
)


def end_at_once_when_interrupted() -> None:
    """Let Ctrl-C and SIGTERM end the process with a line and exit code 1, from now on."""
    for number in SIGNALS:
        if _signal.getsignal(number) in (_signal.default_int_handler, _signal.SIG_DFL):
            _signal.signal(number, _end)
            # Python gives up its handlers before it is gone, but leaves ignored signals ignored.
            atexit.register(_signal.signal, number, _signal.SIG_IGN)


class Interruptible:
    """Inside this block Ctrl-C and SIGTERM raise KeyboardInterrupt where they would end at once.

    Attributes
    ----------
    happened : bool
        Whether a KeyboardInterrupt was raised in this process.

    Notes
    -----
    Use as a context manager around a command. After the block has succeeded a signal ends the
    process silently, with exit code 0.

    An exception in a callback, such as those of the import system, is printed and lost, and in an
    extension module that is being imported it may crash. A KeyboardInterrupt there is raised
    again a moment later.
    """

    happened = False
    _last = float("-inf")  # when it was raised

    def __enter__(self) -> None:
        self._numbers = [each for each in SIGNALS if _signal.getsignal(each) is _end]
        if self._numbers:
            self._hook, sys.unraisablehook = sys.unraisablehook, self._raise_again
        for number in self._numbers:
            _signal.signal(number, self._interrupt)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for number in self._numbers:
            _signal.signal(number, _leave if kind is None else self._end)
        if self._numbers:
            sys.unraisablehook = self._hook

    def _interrupt(self, number: int, frame: "FrameType | None") -> None:
        if self._is_same():
            return
        while frame is not None:
            if frame.f_code in _MAKING:
                self._interrupt_soon()
                return
            frame = frame.f_back
        Interruptible.happened, self._last = True, time.monotonic()
        raise KeyboardInterrupt

    def _end(self, *_: object) -> None:
        if not self._is_same():
            _end()

    def _is_same(self) -> bool:
        return time.monotonic() - self._last < SECONDS_OF_ONE

    def _raise_again(self, lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            self._last = float("-inf")
            self._interrupt_soon()
        else:
            self._hook(lost)

    def _interrupt_soon(self) -> None:
        _thread.start_new_thread(_interrupt_soon, (self._numbers[0], _thread.get_ident()))


def leave_if_interrupted(code: object) -> None:
    """End the process with an exit code, without waiting for threads, if it was interrupted."""
    if not Interruptible.happened:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        atexit._run_exitfuncs()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def _interrupt_soon(number: int, main_thread: int) -> None:
    time.sleep(SECONDS_UNTIL_AGAIN)  # by then that thread has left the callback
    if hasattr(_signal, "pthread_kill"):
        _signal.pthread_kill(main_thread, number)  # which wakes it up
    else:
        _thread.interrupt_main()


# Functions are bound as defaults: when the interpreter shuts down modules may be gone already.
def _end(
    *_: object,
    write: "Callable[[int, bytes], int]" = os.write,
    leave: "Callable[[int], None]" = os._exit,
) -> None:
    try:
        write(2, b"Error: interrupted\n")
    finally:  # an error is lost, since this does not return: standard error is closed or full
        leave(1)


def _leave(*_: object, leave: "Callable[[int], None]" = os._exit) -> None:
    leave(0)
