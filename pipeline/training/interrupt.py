"""Ctrl-C and SIGTERM as a wish to stop with a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def on_interrupt(ask: Callable[[], object]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop, and the second into the usual end."""

    def handler(number: int, frame: object) -> None:
        print("stopping after this step, with a checkpoint; once more stops at once", flush=True)
        for name, old in before.items():
            signal.signal(name, old)
        threading.Thread(target=ask).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, handler) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, old in before.items():
            signal.signal(name, old)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets."""
    asked = threading.Event()
    with on_interrupt(asked.set):
        yield asked
