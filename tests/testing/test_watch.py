"""Calls with a time limit, and what a process holds: both must tell the truth, or a broken backend passes."""

import mmap
import os
import re
import threading

import pytest

from anyvisor.testing.watch import ROOM_BYTES, Held, Underway, until

Failed = pytest.fail.Exception


def test_a_call_that_ends_gives_what_it_returned():
    assert Underway(lambda: 42, "the answer").result() == 42


def test_a_call_that_raises_raises_where_it_is_waited_for():
    def fail():
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        Underway(fail, "a search").result()


def test_a_call_that_does_not_end_fails_the_test_and_is_named():
    never = threading.Event()
    underway = Underway(never.wait, "waiting for Godot")
    with pytest.raises(Failed, match=re.escape("waiting for Godot did not return within 0.01 s")):
        underway.result(0.01)
    assert not underway.is_over(0)
    never.set()
    assert underway.is_over(10)


def test_what_comes_to_hold_is_waited_for():
    asked = []
    until(lambda: asked.append(None) or len(asked) == 3, "the third time")
    assert len(asked) == 3


def test_what_never_holds_fails_the_test_and_is_named():
    with pytest.raises(Failed, match="the moon being blue: not within"):
        until(lambda: False, "the moon being blue", 0.01)


def test_a_call_that_brings_it_about_is_waited_for():
    came, over = threading.Event(), threading.Event()
    underway = Underway(lambda: came.set() or over.wait(10), "a train")
    underway.until(came.is_set, "its coming")
    assert not underway.is_over(0)
    over.set()
    underway.result()


def test_a_call_that_fails_before_it_has_brought_it_about_says_why_at_once():
    def fail():
        raise LookupError("no rails")

    with pytest.raises(LookupError, match="no rails"):
        Underway(fail, "a train").until(lambda: False, "its coming")


def test_a_call_that_ends_before_it_has_brought_it_about_says_so_at_once():
    with pytest.raises(Failed, match="its coming: a train was over before, with 42"):
        Underway(lambda: 42, "a train").until(lambda: False, "its coming")


def test_nothing_is_gained_by_doing_nothing():
    assert Held.now().gained_since(Held.now()) == []


def test_a_descriptor_that_stays_is_named():
    before = Held.now()
    read, write = os.pipe()
    try:
        gained = Held.now().gained_since(before)
    finally:
        os.close(read)
        os.close(write)
    assert len(gained) == 2
    assert all(each.startswith("descriptor of pipe:") for each in gained)
    assert Held.now().gained_since(before) == []


def test_a_second_descriptor_of_the_same_file_is_seen():
    first = os.memfd_create("anyvisor-test")
    before = Held.now()
    second = os.dup(first)
    gained = Held.now().gained_since(before)
    os.close(first)
    os.close(second)
    assert gained == ["descriptor of /memfd:anyvisor-test (deleted)"]


def test_a_mapping_outlives_its_descriptor_and_is_named():
    before = Held.now()
    fd = os.memfd_create("anyvisor-test")
    os.ftruncate(fd, 4096)
    mapping = mmap.mmap(fd, 4096)
    os.close(fd)
    assert any("mapping of /memfd:anyvisor-test" in each for each in Held.now().gained_since(before))
    mapping.close()
    assert Held.now().gained_since(before) == []


def test_a_thread_that_stays_is_counted():
    before, end = Held.now(), threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    assert "1 thread(s)" in Held.now().gained_since(before)
    end.set()
    thread.join()


def test_much_memory_without_a_name_is_seen():
    before = Held.now()
    room = mmap.mmap(-1, 2 * ROOM_BYTES)
    assert any(each.endswith("MiB of addresses") for each in Held.now().gained_since(before, addresses=True))
    assert not any("addresses" in each for each in Held.now().gained_since(before))
    room.close()
