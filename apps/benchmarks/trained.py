"""A recipe run on images and a network that are loaded already: what it scores, and how long."""

import time
from typing import Any

from finetune_kit import checks


def score(recipe: Any, loaded: Any) -> dict[str, Any]:
    """Trains and returns accuracy on the test images, seconds of training, images and epochs.

    Args:
        recipe: A module of `recipes`.
        loaded: What `recipes.loading.load` returned for its `Config`; its network is trained.

    Raises:
        DataError: There are no test images.
    """
    from finetune_kit import features, training
    from recipes import jobs, loading

    config, images = loaded.config, loaded.images
    if images.test is None:
        raise checks.DataError("A case needs test images. Received: none")
    classifier = loading.attach(
        config, loaded.classifier.backbone, images.num_classes, config.head_stages
    )
    began = time.perf_counter()
    training.run(
        classifier, recipe.phases(config, classifier.groups), images, jobs.training_options(config)
    )
    seconds = time.perf_counter() - began
    probabilities = features.predict(classifier, images.test)
    return {
        "accuracy": float((probabilities.argmax(axis=1) == images.test.labels).mean()),
        "seconds": seconds,
        "n": len(images.train),
        "epochs": getattr(config, "epochs", 0),
    }
