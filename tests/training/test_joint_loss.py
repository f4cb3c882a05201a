"""Two heads on one body: the loss and the metrics of each row, against NumPy."""

import keras
import numpy as np
import pytest
import scipy.special

from finetune_kit.training import joint_loss

OWN, OTHERS = 3, 4


def batch(seed=0, n=6):
    """Returns labels and logits: n rows of the target, then n of the source; two are mixed."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((2 * n, OWN + OTHERS), np.float32)
    labels[np.arange(n), generator.integers(0, OWN, n)] = 1
    labels[n + np.arange(n), OWN + generator.integers(0, OTHERS, n)] = 1
    labels[1, :OWN] = [0.3, 0.0, 0.7]
    labels[n + 1, OWN:] = [0.25, 0.25, 0.5, 0.0]
    return labels, generator.normal(0, 3, labels.shape).astype(np.float32)


def by_hand(labels, logits, smoothing=0.0):
    """Returns the cross entropy of every row within its own block, float64 [n]."""
    losses = []
    for row, scores in zip(labels.astype(float), logits.astype(float), strict=True):
        block = slice(0, OWN) if row[:OWN].any() else slice(OWN, None)
        wanted = row[block] * (1 - smoothing) + smoothing / len(row[block])
        losses.append(-(wanted * scipy.special.log_softmax(scores[block])).sum())
    return np.array(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_softmax_is_over_the_block_of_the_row(smoothing) -> None:
    labels, logits = batch()
    found = joint_loss.JointCrossentropy(OWN, label_smoothing=smoothing, reduction=None)
    expected = by_hand(labels, logits, smoothing)
    np.testing.assert_allclose(np.asarray(found(labels, logits)), expected, rtol=1e-5)


def test_weights_weigh_rows_and_the_mean_is_over_all() -> None:
    labels, logits = batch()
    weights = np.linspace(0, 2, len(labels)).astype(np.float32)
    found = joint_loss.JointCrossentropy(OWN)(labels, logits, sample_weight=weights)
    assert float(found) == pytest.approx((weights * by_hand(labels, logits)).mean(), rel=1e-5)


def test_logits_of_the_other_block_play_no_part() -> None:
    labels, logits = batch()
    changed = logits.copy()
    changed[:6, OWN:] += 50
    changed[6:, :OWN] -= 50
    loss = joint_loss.JointCrossentropy(OWN, label_smoothing=0.1)
    assert float(loss(labels, changed)) == float(loss(labels, logits))


def test_metrics_are_those_of_the_target_over_all_batches() -> None:
    accuracy = joint_loss.OwnAccuracy(OWN, name="accuracy")
    loss = joint_loss.OwnLoss(OWN, label_smoothing=0.1, name="own_loss")
    rows = []
    for seed, n in ((1, 6), (2, 6), (3, 2)):
        labels, logits = batch(seed, n)
        weights = np.random.default_rng(seed).uniform(0, 5, 2 * n).astype(np.float32)
        for metric in (accuracy, loss):
            metric.update_state(labels, logits, sample_weight=weights)
        rows.append((labels[:n], logits[:n]))
    labels, logits = (np.concatenate(part) for part in zip(*rows, strict=True))
    right = logits[:, :OWN].argmax(axis=1) == labels[:, :OWN].argmax(axis=1)
    assert 0 < right.mean() < 1
    assert float(accuracy.result()) == pytest.approx(right.mean(), rel=1e-6)
    assert float(loss.result()) == pytest.approx(by_hand(labels, logits, 0.1).mean(), rel=1e-5)


def test_a_head_learns_from_its_own_rows_alone() -> None:
    import tensorflow as tf

    labels, logits = batch()
    given = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = joint_loss.JointCrossentropy(OWN, label_smoothing=0.1)(labels, given)
    gradient = keras.ops.convert_to_numpy(tape.gradient(loss, given))
    assert not gradient[:6, OWN:].any() and not gradient[6:, :OWN].any()
    assert gradient[:6, :OWN].all() and gradient[6:, OWN:].all()
