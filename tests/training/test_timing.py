"""Where time goes: parts that add up, rates by hand, streams that hold training up."""

import time

import numpy as np
import pytest

from finetune_kit import strategy, training
from finetune_kit.training import timing
from tests.training import squares

GROUPS = ("stem", "stage_1", "head")
# Multiply-adds of the toy's convolutions, 3x3 on 16x16 from 3 to 4 and on 8x8 from 4 to 8, twice.
STEM, LATE = 2 * 16 * 16 * 9 * 3 * 4, 2 * 8 * 8 * 9 * 4 * 8


def phase(*trains):
    return strategy.Phase(
        name="some", multipliers={g: float(g in trains) for g in GROUPS}, learning_rate=0.01,
        epochs=2, augment="none",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("trains", "kept", "forward", "backward"),
    [
        (GROUPS, False, STEM + LATE, 2 * (STEM + LATE)),
        (("stage_1", "head"), False, STEM + LATE, 2 * LATE),
        (("stage_1", "head"), True, LATE, 2 * LATE),
        # A frozen stage that gradients cross has no weights to differentiate.
        (("stem", "head"), False, STEM + LATE, 2 * STEM + LATE),
        (("head",), True, 0, 0),
    ],
)
def test_the_work_of_a_step_is_that_of_the_stages_that_run(trains, kept, forward, backward) -> None:
    work = timing.Work(squares.classifier(), phase(*trains), kept=kept)
    assert (work.forward, work.backward) == (forward, backward)
    assert work.total == forward + backward


def timed(seconds, *, images=20, batch_size=8):
    timer = timing.StepTimer(images=images, batch_size=batch_size)
    steps = -(-images // batch_size)
    for number, length in enumerate(seconds):
        timer.on_train_batch_begin(number % steps)
        timer._began = time.perf_counter() - length
        timer.on_train_batch_end(number % steps)
    return timer


def test_the_first_step_is_longer_by_what_tracing_takes() -> None:
    timer = timed([3.0, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert timer.tracing == pytest.approx(2.5, abs=0.01)
    assert timer.images == 40  # two epochs of 8, 8 and 4
    assert timer.rate == pytest.approx(40 / 3.0, rel=0.01)
    assert timed([3.0]).tracing == 0.0


def test_time_is_told_by_part_and_the_parts_are_those_of_the_run() -> None:
    clock = timing.Clock()
    timer = timed([3.0, 0.5, 0.5])
    work = timing.Work(squares.classifier(), phase(*GROUPS), kept=False)
    row = timing.account(clock, timer, work, "some", stream=None)
    assert clock.parts["tracing"] == pytest.approx(2.5, abs=0.01)
    assert clock.parts["forward"] == pytest.approx(1.5 / 3, abs=0.01)
    assert clock.parts["backward"] == pytest.approx(1.5 * 2 / 3, abs=0.01)
    assert row["gflop_per_image"] == pytest.approx(3 * (STEM + LATE) / 1e9)
    assert row["gflop_per_second"] == pytest.approx(row["images_per_second"] * 3e-9 * (STEM + LATE))
    clock.add("tracing", 1.0)
    with clock.time("other"):
        time.sleep(0.01)
    assert clock.parts["tracing"] == pytest.approx(3.5, abs=0.01)
    assert clock.parts["other"] >= 0.01


def test_a_stream_that_gives_less_than_training_takes_holds_it_up() -> None:
    def slow(pause):
        for _ in range(10_000):
            time.sleep(pause)
            yield None, np.zeros((8, 3))

    clock, work = timing.Clock(), timing.Work(squares.classifier(), phase(*GROUPS), kept=False)
    timer = timed([0.1] + [0.1] * 250)  # about 67 images a second
    row = timing.account(clock, timer, work, "some", slow(0.2))
    assert row["starved"]
    assert 20 < row["input_images_per_second"] <= 40
    assert not timing.account(clock, timer, work, "some", slow(0.0))["starved"]


def test_a_run_tells_its_parts_and_its_speed() -> None:
    phases = [strategy.probe(GROUPS), phase("stage_1", "head")]
    outcome = training.run(
        squares.classifier(), phases, squares.load(), training.Options(batch_size=8)
    )
    assert set(outcome.seconds) >= {
        "features", "head", "tracing", "forward", "backward", "validation", "checkpoints"
    }  # fmt: skip
    (row,) = outcome.speed
    assert row["phase"] == "some"
    assert row["gflop_per_image"] == pytest.approx(3 * LATE / 1e9)  # the stem is not run
    assert row["images_per_second"] > 0
    assert outcome.seconds["backward"] == pytest.approx(2 * outcome.seconds["forward"])


def test_a_run_that_waited_for_images_says_so(monkeypatch) -> None:
    monkeypatch.setattr(timing, "LONG", 0.0)
    monkeypatch.setattr(timing, "stream_rate", lambda stream: 3.0)
    outcome = training.run(
        squares.classifier(), [phase(*GROUPS)], squares.load(), training.Options(batch_size=8)
    )
    assert any("waits for images: 3 a second" in note for note in outcome.notes)
