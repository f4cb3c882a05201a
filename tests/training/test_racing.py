"""Plans that compete by cross-validation."""

import dataclasses

import numpy as np
import pytest

from finetune_kit import checks, data, strategy, training
from finetune_kit.training import racing, statistics
from tests.training import squares

SETTINGS = training.Options(batch_size=8, guard=False)


def contender(name, classifier, *, rate, epochs=6):
    tuning = strategy.Tuning(learning_rate=rate, epochs=epochs, augment="none")
    return training.Contender(name, classifier, (strategy.everything(classifier.groups, tuning),))


@pytest.fixture
def images():
    return squares.load(per_class=12)


def race(contenders, images):
    folds = data.cross_validation(images.train, seed=1)
    return training.race(contenders, images.train, folds, SETTINGS, num_classes=squares.CLASSES)


def test_a_rival_that_is_clearly_better_wins_over_the_prior(images) -> None:
    one = squares.classifier()
    found = race([contender("idle", one, rate=1e-9), contender("able", one, rate=0.02)], images)
    assert found.winner == "able"
    assert found.margin > found.error > 0
    assert found.errors["able"] < found.errors["idle"]
    assert found.images == len(images.train)
    assert "more than one standard error" in found.reason
    assert found.seconds > 0


def test_the_prior_is_kept_unless_it_is_clearly_beaten(images) -> None:
    one = squares.classifier()
    found = race([contender("able", one, rate=0.02), contender("idle", one, rate=1e-9)], images)
    assert found.winner == "able"
    assert found.margin < 0
    level = race([contender("a", one, rate=1e-9), contender("b", one, rate=1e-9)], images)
    assert (level.winner, level.margin) == ("a", 0.0)
    assert "not more" in level.reason


def test_every_contender_starts_and_leaves_the_weights_as_they_were(images) -> None:
    one = squares.classifier()
    before = [np.array(v) for v in one.model.variables]
    race([contender("a", one, rate=0.02), contender("b", one, rate=0.02)], images)
    for value, variable in zip(before, one.model.variables, strict=True):
        np.testing.assert_array_equal(value, np.array(variable))


def test_errors_are_those_of_plans_trained_without_the_held_out_images(images) -> None:
    """The same plan run by hand on one fold and scored by NumPy."""
    one = squares.classifier()
    plan = contender("able", one, rate=0.02)
    folds = data.cross_validation(images.train, seed=1)[:1]
    errors = racing.cross_validated_errors(
        plan, images.train, folds, SETTINGS, num_classes=squares.CLASSES
    )
    other = squares.classifier()
    by_hand = training.run(other, plan.phases, _only(images, folds[0].train), SETTINGS)
    assert by_hand.planned_epochs == 6
    held_out = images.train.take(folds[0].validation)
    pixels = held_out.store.batch(held_out.indices).astype(np.float32)
    predicted = np.array(other.model(pixels, training=False)).argmax(axis=1)
    np.testing.assert_array_equal(errors, (predicted != held_out.labels).astype(float))


def test_statistics_of_the_target_are_used_where_they_are_asked_for(images, monkeypatch) -> None:
    one, by_hand = squares.classifier(), squares.classifier()
    statistics.re_estimate(by_hand, images.train, seed=SETTINGS.seed)
    begun = []

    class Noted(racing.course.Course):
        def __init__(self, classifier, *arguments, **keywords) -> None:
            begun.append([np.array(v) for v in classifier.model.variables])
            super().__init__(classifier, *arguments, **keywords)

    monkeypatch.setattr(racing.course, "Course", Noted)
    racing.cross_validated_errors(
        contender("idle", one, rate=1e-9, epochs=1),
        images.train,
        data.cross_validation(images.train, seed=1),
        dataclasses.replace(SETTINGS, batch_norm_statistics="target"),
        num_classes=squares.CLASSES,
    )
    for value, variable in zip(begun[0], by_hand.model.variables, strict=True):
        np.testing.assert_allclose(value, np.array(variable), atol=1e-6)


def test_a_plan_that_diverges_recognises_nothing(images) -> None:
    one = squares.classifier()
    errors = racing.cross_validated_errors(
        contender("wild", one, rate=1e38),
        images.train,
        data.cross_validation(images.train, seed=1)[:1],
        SETTINGS,
        num_classes=squares.CLASSES,
    )
    assert errors.all()


def test_a_race_needs_two_plans_and_images_to_hold_out(images) -> None:
    one = contender("a", squares.classifier(), rate=0.01)
    with pytest.raises(checks.ConfigError, match="two plans"):
        race([one], images)
    with pytest.raises(checks.ConfigError, match="folds=0"):
        training.race([one, one], images.train, (), SETTINGS, num_classes=3)


def _only(images, positions):
    return dataclasses.replace(images, train=images.train.take(positions), folds=())
