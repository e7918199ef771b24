"""Bells: rung by anybody, waited for by one, and what a signal does to the wait."""

import signal
import threading

import pytest

from anyvisor.bell import LockBell, SemaphoreBell, make_bell


@pytest.fixture(params=[SemaphoreBell, LockBell, make_bell])
def bell(request):
    return request.param()


def test_a_ring_ends_the_wait(bell):
    ringer = threading.Timer(0.02, bell.ring)
    ringer.start()
    assert bell.wait()
    ringer.join()


def test_a_ring_before_the_wait_counts_once_however_often_it_rings(bell):
    for _ in range(3):
        bell.ring()
    assert bell.wait()
    rung = []
    ringer = threading.Timer(0.02, lambda: rung.append(True) or bell.ring())
    ringer.start()
    assert bell.wait()
    assert rung
    ringer.join()


@pytest.fixture
def alarm():
    """A signal soon, and what its handler is to do."""

    def soon(handler):
        signal.signal(signal.SIGALRM, lambda *_: handler())
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.getsignal(signal.SIGALRM)
    yield soon
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_ring_on_top_of_the_wait(bell, alarm):
    alarm(bell.ring)
    while not bell.wait():
        pass


def test_a_semaphore_hears_a_signal_whose_handler_does_nothing(alarm):
    alarm(lambda: None)
    assert not SemaphoreBell().wait()


def test_a_lock_is_waited_for_no_longer_than_it_is_said():
    assert not LockBell().wait(0.01)
