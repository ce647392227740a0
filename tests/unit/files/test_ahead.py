"""Work ahead of its use: in order, in few threads, and no more held than was said."""

import threading
import time

import pytest

from udfs.files import ahead
from udfs.files.ahead import in_order


def test_results_come_in_order_whatever_takes_longer():
    def work(n):
        time.sleep(0.02 * (n % 3))
        return n

    assert list(in_order(work, range(40), threads=4, size=lambda n: 0)) == list(range(40))


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_is_raised_at_its_turn_and_nothing_new_is_begun(threads):
    begun = []

    def work(n):
        begun.append(n)
        if n == 5:
            raise KeyError(n)
        return n

    made = in_order(work, range(1000), threads=threads, size=lambda n: 0)
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        next(made)
    time.sleep(0.05)
    assert len(begun) <= 5 + 2 * threads + 1


def test_what_waits_is_bounded_in_bytes_and_threads(monkeypatch):
    monkeypatch.setattr(ahead, "HELD_BYTES", 1000)
    lock, running, most = threading.Lock(), [0], [0]
    begun = []

    def work(n):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            begun.append(n)
        time.sleep(0.005)
        with lock:
            running[0] -= 1
        return b"x" * 600

    made = in_order(work, range(50), threads=3, size=len)
    for taken, _ in enumerate(made):
        time.sleep(0.02)
        # Those that wait have 600 bytes each: two are enough, and one a thread may have been under way.
        assert len(begun) - taken - 1 <= 2 + 3
    assert begun == sorted(begun)
    assert most[0] <= 3


def test_leaving_early_cancels_what_has_not_begun():
    begun = []

    def work(n):
        begun.append(n)
        time.sleep(0.05)
        return n

    made = in_order(work, range(100), threads=2, size=lambda n: 0)
    next(made)
    made.close()
    time.sleep(0.2)
    assert len(begun) <= 4
