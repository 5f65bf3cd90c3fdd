"""Order, bounds, errors and interruptions of the three stages, without a model."""

import random
import threading
import time

import pytest

from fastalign.engine.pipeline import COMPUTING, MEMORY, READING, WRITING, Pipeline, Room, Stop


class Course:
    """Numbers on their way: doubled by the model, negated by the writer; what happened is kept."""

    def __init__(self, room, fail=None, delay=lambda: 0.0, weigh=lambda item: 0):
        self.fail = fail or {}
        self.delay = delay
        self.batches, self.done, self.written = [], [], []
        self.under_way, self.most, self.lock = 0, 0, threading.Lock()
        self.pipeline = Pipeline(self.read, self.compute, self.write, self.finish, room, weigh)

    def check(self, stage, number):
        error = self.fail.get((stage, number))
        if error is not None:
            raise error

    def read(self, number):
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(self.delay())
        self.check(READING, number)
        return number

    def compute(self, numbers):
        self.batches.append(numbers)
        self.check(COMPUTING, numbers[0])
        return [2 * number for number in numbers]

    def write(self, value):
        time.sleep(self.delay())
        self.check(WRITING, value // 2)
        with self.lock:
            self.written.append(value // 2)
        return -value

    def finish(self, value):
        self.done.append(-value // 2)
        with self.lock:
            self.under_way -= 1
        self.check("finishing", -value // 2)

    def run(self, numbers, size=1):
        batches = (numbers[at : at + size] for at in range(0, len(numbers), size))
        self.pipeline.run(batches)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1, 4])
def test_order_and_batches_do_not_depend_on_who_is_late(threads, size):
    chance = random.Random(0)
    course = Course(Room.of(size, threads=threads), delay=lambda: chance.random() / 500)
    course.run(list(range(30)), size)
    assert course.done == list(range(30))
    assert course.batches == [list(range(30))[at : at + size] for at in range(0, 30, size)]
    assert course.pipeline.stopped is None


def test_no_more_images_are_under_way_than_there_is_room_for():
    chance = random.Random(0)
    course = Course(Room(5, threads=4), delay=lambda: chance.random() / 500)
    course.run(list(range(40)), 2)
    assert 2 < course.most <= 5 and course.done == list(range(40))


def test_no_more_memory_is_taken_than_there_is_room_for():
    light = Course(Room(8, 100, threads=4), delay=lambda: 0.001, weigh=lambda number: 30)
    light.run(list(range(20)))
    assert 1 < light.most <= 3
    heavy = Course(Room(8, 100, threads=4), weigh=lambda number: 1000)
    heavy.run(list(range(5)))
    assert heavy.most == 1 and heavy.done == list(range(5))


def test_a_batch_larger_than_the_room_goes_alone():
    course = Course(Room(1, threads=2))
    course.run(list(range(7)), 3)
    assert course.done == list(range(7)) and course.most == 3


def test_stages_are_at_work_at_the_same_time():
    """Reading of the third item and writing of the first wait for each other."""
    meeting = threading.Barrier(2, timeout=30)

    def read(number):
        if number == 2:
            meeting.wait()
        return number

    def write(number):
        if number == 0:
            meeting.wait()
        return number

    done = []
    Pipeline(read, list, write, done.append, Room.of(1, threads=2)).run([[n] for n in range(4)])
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("stage", [READING, COMPUTING, WRITING, "finishing"])
def test_an_error_is_raised_once_all_before_it_is_done(stage):
    error = ValueError("broken")
    course = Course(Room.of(1, threads=3), {(stage, 6): error}, delay=lambda: 0.001)
    with pytest.raises(ValueError, match="broken") as caught:
        course.run(list(range(20)))
    assert caught.value is error
    where = WRITING if stage == "finishing" else stage
    assert course.pipeline.stopped == Stop(where, 6)
    assert course.done[:6] == [0, 1, 2, 3, 4, 5] and len(course.done) < 20
    # Of all that was written the caller has heard, in the order of the items.
    assert course.done == sorted(course.written)


def test_the_earliest_item_that_failed_is_told_of():
    """The model fails while the writing of an earlier item is still about to."""
    released = threading.Event()
    first, second = OSError("disk"), RuntimeError("model")

    def write(number):
        if number == 1:
            assert released.wait(30)
            raise first
        return number

    def compute(numbers):
        if numbers == [3]:
            released.set()
            raise second
        return numbers

    done = []
    pipeline = Pipeline(lambda n: n, compute, write, done.append, Room.of(1, threads=3))
    with pytest.raises(OSError, match="disk"):
        pipeline.run([[n] for n in range(6)])
    assert pipeline.stopped == Stop(WRITING, 1) and done[0] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_soon_and_what_was_computed_is_done(error):
    course = Course(Room.of(1, threads=2), {(COMPUTING, 5): error()}, delay=lambda: 0.002)
    with pytest.raises(error):
        course.run(list(range(1000)))
    assert course.done == [0, 1, 2, 3, 4]
    assert len(course.batches) == 6


def test_an_interruption_is_told_even_where_writing_fails_after_it():
    course = Course(
        Room.of(1, threads=1),
        {(COMPUTING, 3): KeyboardInterrupt(), (WRITING, 2): OSError("disk")},
        delay=lambda: 0.002,
    )
    with pytest.raises(KeyboardInterrupt):
        course.run(list(range(10)))
    assert course.done == [0, 1] and course.pipeline.stopped == Stop(COMPUTING, 3)


def test_room_follows_threads_and_batches():
    assert Room.of(4, threads=3) == Room(14, MEMORY, 3)
    assert Room.of(1, 0, 1).memory == 0
    assert Room.of(1).threads >= 1
