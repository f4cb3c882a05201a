"""The solved head on features of several depths: fine-tuning begins where it left off."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune_kit import features, training
from tests.training import squares

OPTIONS = training.Options(batch_size=8, weight_decay=0.0)


@pytest.mark.parametrize("stages", [1, 0])
def test_fine_tuning_starts_at_the_accuracy_of_the_probe(stages) -> None:
    """At a rate of next to nothing the epochs score what the solved head scores."""
    images, classifier = squares.load(noise=40.0), squares.classifier(stages=stages)
    phases = squares.phases(epochs=2, rate=1e-12, augment="none")
    rows = training.run(classifier, phases, images, OPTIONS).history
    assert [row["phase"] for row in rows] == ["probe", "finetune", "finetune"]
    for row in rows[1:]:
        for name in ("accuracy", "loss", "val_accuracy", "val_loss"):
            assert row[name] == pytest.approx(rows[0][name], abs=1e-4), name


def test_the_head_is_solved_on_the_features_of_every_stage() -> None:
    """Against scikit-learn on maps that are pooled by hand."""
    images, classifier = squares.load(noise=40.0), squares.classifier(stages=0)
    data = dataclasses.replace(images, validation=None)
    training.run(classifier, squares.phases()[:1], data, OPTIONS)
    pixels = images.train.store.batch(images.train.indices).astype(np.float32)
    ends = [stage.output for stage in classifier.backbone.stages]
    maps = [np.asarray(keras.Model(classifier.model.input, end)(pixels)) for end in ends]
    rows = np.concatenate([m.mean(axis=(1, 2)) for m in maps], axis=1)
    strength = features.solve_head(rows, images.train.labels, num_classes=3, seed=0).strength
    model = LogisticRegression(C=strength, max_iter=300)
    model.fit((rows - rows.mean(axis=0)) / rows.std(axis=0), images.train.labels)
    kernel = model.coef_.T / rows.std(axis=0)[:, None]
    assert kernel.shape == (4 + 8, 3)
    # Softmax takes any kernel plus a constant a row.
    found = classifier.head.get_weights()[0]
    centred = [k - k.mean(axis=1, keepdims=True) for k in (found, kernel)]
    np.testing.assert_allclose(*centred, rtol=2e-2, atol=2e-3)
