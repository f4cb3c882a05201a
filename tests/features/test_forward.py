"""A forward pass gives what Keras' own gives, of one graph."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune_kit.features import forward


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (11, 8, 8, 3)).astype(np.float32)


class Counting(keras.layers.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, x):
        self.traces += 1
        return x


def batches(images, size):
    return tf.data.Dataset.from_tensor_slices(images).batch(size)


def test_it_gives_what_predict_gives_of_one_graph(images) -> None:
    pixels = keras.Input((8, 8, 3))
    counting = Counting()
    x = counting(keras.layers.Conv2D(4, 3)(pixels))
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
    outputs = {"maps": x, "means": [keras.layers.GlobalAveragePooling2D()(x)]}
    model, same = keras.Model(pixels, outputs), keras.Model(pixels, outputs)
    counting.traces = 0
    found = forward.run(model, batches(images, 4))  # 4, 4 and 3 images
    assert counting.traces == 1
    forward.run(model, batches(images[:7], 5))
    assert counting.traces == 1
    forward.run(model, tf.data.Dataset.from_tensors(images[:6]))  # whose length is known before
    assert counting.traces == 1
    wanted = same.predict(images, batch_size=4, verbose=0)
    assert found.keys() == wanted.keys()
    np.testing.assert_array_equal(found["maps"], wanted["maps"])
    np.testing.assert_array_equal(found["means"][0], wanted["means"][0])


def test_the_weights_of_the_moment_count(images) -> None:
    pixels = keras.Input((8, 8, 3))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(pixels, dense(keras.layers.Flatten()(pixels)))
    before = forward.run(model, batches(images, 4))
    dense.kernel.assign(2 * dense.kernel)
    np.testing.assert_allclose(forward.run(model, batches(images, 4)), 2 * before, rtol=1e-5)


def test_images_of_another_size_are_another_graph() -> None:
    pixels = keras.Input((None, None, 3))
    model = keras.Model(pixels, keras.layers.GlobalMaxPooling2D()(pixels))
    for side in (8, 6, 8):
        images = np.random.default_rng(side).uniform(size=(5, side, side, 3)).astype(np.float32)
        np.testing.assert_array_equal(
            forward.run(model, batches(images, 2)), images.max(axis=(1, 2))
        )


def test_callbacks_see_every_batch(images) -> None:
    seen = []
    watch = keras.callbacks.LambdaCallback()
    watch.on_predict_batch_end = lambda batch, logs: seen.append(len(logs["outputs"]))
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Flatten()(pixels))
    forward.run(model, batches(images, 4), callbacks=[watch])
    assert seen == [4, 4, 3]
