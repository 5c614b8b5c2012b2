"""Ctrl-C and SIGTERM as a wish to stop with a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Handle some signals meanwhile, in the main thread, the only one that may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def on_interrupt(ask: Callable[[], object]) -> contextlib.AbstractContextManager[None]:
    """Call `ask` at the first Ctrl-C or SIGTERM; the second acts as usual."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: object) -> None:
        print("stopping after this step, with a checkpoint; once more stops at once", flush=True)
        for each, old in usual.items():
            signal.signal(each, old)
        threading.Thread(target=ask).start()

    return handled(handler, *usual)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets."""
    asked = threading.Event()
    with on_interrupt(asked.set):
        yield asked
