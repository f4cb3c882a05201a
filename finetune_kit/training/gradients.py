"""How strongly the images pull at each stage, measured before anything trains."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import data, features
from finetune_kit.training import prefixes, snapshots, solving, statistics

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split
    from finetune_kit.training.options import Options

BATCHES = 5  # to average over


def relative_gradient_norms(
    classifier: "Classifier", split: "Split", *, batch_size: int = 32, seed: int = 0
) -> dict[str, float]:
    """Returns the norm of the gradient over the norm of the weights, for every stage.

    The measure of Auto-RGN (Lee et al., 2023, "Surgical Fine-Tuning Improves Adaptation to
    Distribution Shifts", section 4), for stages in the place of layers: of the mean log loss of a
    batch, over all weights of the stage together but those of BatchNorm, averaged over the first
    five batches. Nothing is augmented, and the network is in inference mode.

    Args:
        classifier: Its weights stay as they are.
        split: Labelled images.
        batch_size: Images a batch.
        seed: Decides the order of the images.

    Returns:
        Stage to ratio in nats, from input to output; 0 for a stage without weights.
    """
    weights = {stage.name: _weights(classifier, stage.name) for stage in classifier.backbone.stages}
    batches = data.batches(
        split,
        num_classes=int(classifier.model.output_shape[-1]),
        batch_size=batch_size,
        seed=seed,
        epochs=1,
    ).take(BATCHES)
    ratios = [_ratios(classifier.model, weights, *batch) for batch in batches]
    return {name: float(np.mean([ratio[name] for ratio in ratios])) for name in weights}


def gradients_at_probe(
    classifier: "Classifier", split: "Split", options: "Options"
) -> dict[str, float]:
    """Returns `relative_gradient_norms` where fine-tuning is going to begin: at the solved head.

    Args:
        classifier: Has the weights that it had, when this is done.
        split: Labelled images, on which the head is solved.
        options: Of the run to come.
    """
    before = snapshots.take(classifier.model.variables)
    try:
        statistics.prepare(classifier, (), split, options)
        num_classes = int(classifier.model.output_shape[-1])
        store = features.ActivationStore(batch_size=options.batch_size)
        kept = prefixes.Prefixes(classifier, (), options, store)
        solver = solving.Solver(classifier, kept, num_classes=num_classes, seed=options.seed)
        solver.solve(split, None)
        return relative_gradient_norms(
            classifier, split, batch_size=options.batch_size, seed=options.seed
        )
    finally:
        snapshots.put(classifier.model.variables, before)


def _weights(classifier: "Classifier", stage: str) -> list[Any]:
    layers = [
        layer
        for layer in classifier.layers_of(stage)
        if not isinstance(layer, keras.layers.BatchNormalization)
    ]
    return [variable for layer in layers for variable in layer._trainable_variables]


def _ratios(
    model: keras.Model, weights: dict[str, list[Any]], pixels: Any, labels: Any
) -> dict[str, float]:
    """Returns the ratio of every stage on one batch."""
    import tensorflow as tf

    values = {name: [variable.value for variable in owned] for name, owned in weights.items()}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        logits = model(pixels, training=False)
        losses = keras.losses.categorical_crossentropy(labels, logits, from_logits=True)
        loss = keras.ops.mean(losses)
    gradients = tape.gradient(loss, values, unconnected_gradients="zero")
    norms = {name: (_norm(gradients[name]), _norm(values[name])) for name in values}
    return {name: top / bottom if bottom else 0.0 for name, (top, bottom) in norms.items()}


def _norm(tensors: list[Any]) -> float:
    """Returns the Euclidean norm of all values together."""
    parts = [np.asarray(keras.ops.convert_to_numpy(t), np.float64).ravel() for t in tensors]
    return float(np.linalg.norm(np.concatenate(parts))) if parts else 0.0
