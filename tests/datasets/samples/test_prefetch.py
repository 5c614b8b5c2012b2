"""Reading ahead: in order, bounded, and over when it is over."""

import os
import signal
import threading
import time
from contextlib import closing
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.samples.prefetch import read_ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 30), st.integers(0, 4), st.integers(1, 9))
def test_values_come_in_the_order_of_their_keys_and_never_too_early(keys, workers, ahead):
    taken = 0

    def asked():
        nonlocal taken
        for key in range(keys):
            taken += 1
            yield key

    def read(key: int) -> int:
        time.sleep(0.0004 * (key * 7 % 3))
        return key * key

    with closing(read_ahead(asked(), read, workers=workers, ahead=ahead)) as values:
        for number, value in enumerate(values):
            assert value == number * number
            assert taken - number - 1 <= (ahead if workers else 0)
    assert taken == keys
    assert threads() == []


def test_several_are_read_at_once():
    together = threading.Barrier(3, timeout=20)
    assert list(read_ahead(range(6), lambda key: (together.wait(), key)[1], workers=3, ahead=3)) == list(range(6))


def test_closing_early_ends_the_threads_and_reads_no_more():
    begun = []

    def read(key: int) -> int:
        begun.append(key)
        time.sleep(0.02)
        return key

    with closing(read_ahead(count(), read, workers=2, ahead=50)) as values:
        next(values)
        assert len(threads()) == 2
    assert threads() == []
    assert len(begun) < 10  # of the 50 that were planned


def test_a_failure_comes_at_its_turn_and_ends_the_threads():
    def read(key: int) -> int:
        if key == 3:
            raise OSError("the disk is gone")
        time.sleep(0.01)
        return key

    values = read_ahead(range(10), read, workers=4, ahead=8)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(values)
    assert threads() == []


def test_ctrl_c_interrupts_a_slow_read_and_ends_the_threads():
    begun, pressed = threading.Event(), threading.Event()

    def read(key: int) -> int:
        begun.set()
        assert pressed.wait(60)  # however late the key is pressed, the value comes after it
        return key

    def press() -> None:
        begun.wait()
        time.sleep(0.1)  # by then the caller waits for the value
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        pressed.set()

    values = read_ahead(count(), read, workers=2, ahead=4)
    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        next(values)
    pressing.join()
    assert threads() == []
