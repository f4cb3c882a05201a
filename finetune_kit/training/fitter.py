"""One phase, compiled once: the only caller of `compile` and `fit`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.strategy import applying, phases
from finetune_kit.training import anchoring, optimizers, snapshots, views

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.joint_loss import Joint
    from finetune_kit.training.options import Options


class Fitter:
    """A phase of a classifier, ready to be trained any number of times with one trace.

    Its model is a view of its own on the classifier's layers, so that a phase keeps its traced
    graph while others change what trains; the rate is a variable that is set at each step.

    Attributes:
        model: The compiled view.
        phase: What trains.
    """

    def __init__(
        self,
        classifier: "Classifier",
        phase: "Phase",
        options: "Options",
        *,
        origin: Sequence[np.ndarray],
        previous: "Fitter | None" = None,
        joint: "Joint | None" = None,
        suffix: keras.Model | None = None,
    ) -> None:
        """Compiles the phase.

        Args:
            classifier: Whose layers train.
            phase: Not a solved one.
            options: Optimizer and loss.
            origin: Values of the classifier's variables at the start of the course.
            previous: The phase trained before, whose optimizer state is carried over.
            joint: The second head that trains with the first, at its rate; None for none.
            suffix: The part of the classifier that is run, from activations that are kept; None
                runs all of it.
        """
        applying.apply(classifier, phase)
        self._classifier, self.phase, self._joint = classifier, phase, joint
        view = joint.view() if joint else _view(suffix or classifier.model)
        alone = phase.layers == "batch_norm" and phase.batch_norm == "frozen"
        self.model = views.held(view) if alone else view
        self._penalties = anchoring.penalties(classifier, origin, options.l2_sp)
        before = previous.model.optimizer if previous else None
        optimizer = self._make_optimizer(options, before)
        self.model.compile(
            optimizer=optimizer,
            loss=(joint.loss if joint else _loss)(options.label_smoothing),
            metrics=(joint.metrics if joint else _metrics)(options.label_smoothing),
        )
        self._fresh = snapshots.take(optimizer.variables)

    def start(self, previous: "Fitter | None" = None) -> None:
        """Opens the phase: flags as planned, optimizer fresh or with the state of `previous`."""
        applying.apply(self._classifier, self.phase)
        snapshots.put(self.model.optimizer.variables, self._fresh)
        if previous is not None:
            optimizers.carry_state(previous.model.optimizer, self.model.optimizer)

    def go_on(self, state: Mapping[str, np.ndarray]) -> None:
        """Gives the optimizer the state that it had when the run was interrupted.

        Raises:
            WeightsError: It is the state of other variables.
        """
        own = dict(optimizers.keyed(self.model.optimizer.variables))
        if own.keys() != state.keys():
            raise checks.WeightsError(
                f"A checkpoint must hold the optimizer's {len(own)} variables. Received: "
                f"{len(state)}, {', '.join(sorted(own.keys() ^ state.keys())[:3])} on one side."
            )
        for key, variable in own.items():
            variable.assign(state[key])

    def state(self) -> dict[str, np.ndarray]:
        """Returns the values of the optimizer's variables by key."""
        pairs = optimizers.keyed(self.model.optimizer.variables)
        return dict(zip((k for k, _ in pairs), snapshots.take(v for _, v in pairs), strict=True))

    def finish(self) -> None:
        """Does what the end of `fit` does, for a phase whose epochs have all been run before."""
        for variable, average in optimizers.averages(self.model.optimizer):
            variable.assign(average)

    def fit(
        self,
        batches: Any,
        *,
        steps: int,
        epochs: range,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Trains.

        Args:
            batches: A dataset that holds exactly those epochs, one after the other.
            steps: Batches an epoch.
            epochs: Epochs counted over the whole run.
            callbacks: One of them has to set the learning rate.
        """
        with anchoring.applied(self._penalties):
            self.model.fit(
                batches,
                initial_epoch=epochs.start,
                epochs=epochs.stop,
                steps_per_epoch=steps,
                callbacks=list(callbacks),
                verbose=0,
            )

    def _rates(self) -> dict[str, float]:
        """Returns variable path to multiplier, for every variable of the view that trains."""
        rates = applying.rates_by_path(self._classifier, self.phase)
        if self._joint:
            head = self.phase.multipliers[phases.HEAD]
            rates |= {variable.path: head for variable in self._joint.head.trainable_variables}
        return rates

    def _make_optimizer(
        self, options: "Options", before: keras.optimizers.Optimizer | None
    ) -> keras.optimizers.Optimizer:
        variables = self.model.trainable_variables
        plain = optimizers.build(
            options.optimizer,
            learning_rate=self.phase.learning_rate,
            preset=options.preset,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            ema=options.ema,
        )
        optimizer = optimizers.with_multipliers(
            plain,
            self._rates(),
            cohorts=optimizers.cohorts(before, variables),
        )
        if _needs_loss_scale(self.model):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
        optimizer.build(variables)
        return optimizer


def _view(model: keras.Model) -> keras.Model:
    inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(inputs, model.outputs[0])


def _loss(label_smoothing: float) -> keras.losses.Loss:
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)


def _metrics(label_smoothing: float) -> list[keras.metrics.Metric]:
    return [keras.metrics.CategoricalAccuracy(name="accuracy")]


def _needs_loss_scale(model: keras.Model) -> bool:
    # Keras looks at the model's own policy, which is that of the moment it was made; the layers
    # know better.
    return any(layer.compute_dtype == "float16" for layer in model._flatten_layers())
