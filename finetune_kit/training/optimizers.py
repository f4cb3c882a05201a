"""Optimizers with a rate for every variable, made from any optimizer of Keras.

A multiplier scales the step, not the gradient (under Adam a scaled gradient makes the same step),
and decoupled weight decay with it (Keras decays at the global rate).

    optimizer = optimizers.with_multipliers(keras.optimizers.AdamW(1e-4), {"conv/kernel": 0.1, …})
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.training import presets

PACKAGE = "finetune_kit"
NAME = "optimizer"
KEY = "finetune_kit_key"  # of a variable of an optimizer, see `keyed`
# What `exclude_from_weight_decay` leaves behind; Keras' configurations are silent about it.
EXCLUSIONS = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


_Base: Any = object  # an optimizer of Keras, as far as types go


class _Layerwise(_Base):
    """What a class gains, put before an optimizer of Keras; see `with_multipliers`.

    Attributes:
        multipliers: Variable path to multiplier.
        cohorts: Variable path to the number of the group of variables that began to train with it;
            empty if all began together.
    """

    def __init__(
        self,
        *args: Any,
        multipliers: Mapping[str, float] | None = None,
        cohorts: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.multipliers = dict(multipliers or {})
        self.cohorts = dict(cohorts or {})
        self._births: Any = None
        self._current: int | None = None

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the state of `variables`, every one of which needs a multiplier.

        Raises:
            ConfigError: A variable without a multiplier, a multiplier without a variable, or two
                variables of one path.
        """
        if self.built:
            return
        _check_paths(self.multipliers, variables)
        self._multiplier_of = [self.multipliers[variable.path] for variable in variables]
        self._decay_of = [self._decay(variable) for variable in variables]
        self._cohort_of = [self.cohorts.get(variable.path, 0) for variable in variables]
        super().build(variables)
        if self.cohorts:
            self._births = self.add_variable(
                (max(self._cohort_of) + 1,), dtype="int", name="births"
            )
        _name_state(self, variables)

    @property
    def iterations(self) -> Any:
        """Steps taken; within a variable's update, steps since that variable began to train.

        Bias corrections count with it. Counted from the beginning of the run, a stage that opens
        late would have none, and Adam's first hundred steps would be up to six times too long.
        """
        steps = super().iterations
        if self._current is None or self._births is None:
            return steps
        return steps - self._births[self._cohort_of[self._current]]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays and updates one variable at its own rate."""
        index = self._get_variable_index(variable)
        multiplier, decay = self._multiplier_of[index], self._decay_of[index]
        if multiplier == 0.0:  # FTRL divides by the rate
            return
        if multiplier != 1.0:
            learning_rate = learning_rate * multiplier
        if decay is not None:
            shrink = keras.ops.cast(decay, variable.dtype)
            rate = keras.ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * shrink * rate)  # in Keras' order, to the last bit
        self._current = index
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self._current = None

    def get_config(self) -> dict[str, Any]:
        """Returns the optimizer's arguments, multipliers included."""
        config = super().get_config()
        config["multipliers"] = dict(self.multipliers)
        if self.cohorts:
            config["cohorts"] = dict(self.cohorts)
        return config

    def save_own_variables(self, store: Any) -> None:
        """Saves the state by path; Keras saves it by order, which another network may share."""
        for key, variable in keyed(self.variables):
            store[key] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Loads the state by path.

        Raises:
            WeightsError: The file holds the state of other variables.
        """
        wanted = keyed(self.variables)
        alone = sorted({key for key, _ in wanted} ^ set(store.keys()))
        if alone:
            raise checks.WeightsError(
                f"The optimizer's state must hold {len(wanted)} variables. Received: "
                f"{len(store.keys())}; {', '.join(alone[:3])} on one side alone."
            )
        for key, variable in wanted:
            if tuple(store[key].shape) != tuple(variable.shape):
                raise checks.WeightsError(
                    f"The optimizer's {key} must have the shape {tuple(variable.shape)}. "
                    + checks.received(shape=tuple(store[key].shape))
                )
        for key, variable in wanted:
            variable.assign(store[key])

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing: `update_step` decays, at the variable's own rate."""

    def _decay(self, variable: Any) -> float | None:
        if not self._use_weight_decay(variable):
            return None
        # Muon decays those of its variables that Adam updates by a rate of their own.
        if isinstance(self, keras.optimizers.Muon) and self._should_use_adamw(variable):
            return self.adam_weight_decay or None
        return self.weight_decay or None


def _register(base: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    name = f"Layerwise{base.__name__}"
    made = type(name, (_Layerwise, base), {"__doc__": f"{base.__name__} with rates by variable."})
    made.__module__ = __name__
    return keras.saving.register_keras_serializable(PACKAGE)(made)


# Made when the module is imported, so that a saved model finds them.
LAYERWISE = {
    base: _register(base)
    for base in (
        keras.optimizers.SGD,
        keras.optimizers.RMSprop,
        keras.optimizers.Adam,
        keras.optimizers.AdamW,
        keras.optimizers.Adadelta,
        keras.optimizers.Adagrad,
        keras.optimizers.Adamax,
        keras.optimizers.Adafactor,
        keras.optimizers.Ftrl,
        keras.optimizers.Lamb,
        keras.optimizers.Lion,
        keras.optimizers.Muon,
        keras.optimizers.Nadam,
    )
}


def build(
    name: str,
    *,
    learning_rate: float,
    preset: str = "keras",
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    ema: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns a plain optimizer of Keras by name.

    Args:
        name: A name of `presets.OPTIMIZERS`.
        learning_rate: Global rate, at least 0.
        preset: "keras" or "source" (S9).
        weight_decay: Decoupled decay (Loshchilov & Hutter, 2019): each step shrinks a weight by
            this times the rate. 0 switches it off.
        clip_norm: Largest norm of all gradients together (Pascanu et al., 2013, section 3.2); 0
            does not clip.
        ema: Momentum of the average over the weights that replaces them at the end of a phase
            (Polyak & Juditsky, 1992), such as 0.99; 0 keeps none.

    Raises:
        ConfigError: An unknown name or preset, or a value out of range.
    """
    arguments = presets.arguments(name, preset)
    checks.in_range("learning_rate", learning_rate, 0.0)
    checks.in_range("weight_decay", weight_decay, 0.0)
    checks.in_range("clip_norm", clip_norm, 0.0)
    checks.in_range("ema", ema, 0.0, 1.0, open_high=True)
    average = {"use_ema": True, "ema_momentum": ema} if ema else {}
    constructor = getattr(keras.optimizers, presets.OPTIMIZERS[name].constructor)
    return constructor(
        learning_rate=float(learning_rate),
        weight_decay=float(weight_decay),  # AdamW does not take None
        global_clipnorm=clip_norm or None,
        name=NAME,
        **arguments,
        **average,
    )


def with_multipliers(
    optimizer: keras.optimizers.Optimizer,
    multipliers: Mapping[str, float],
    *,
    cohorts: Mapping[str, int] | None = None,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer like the given one, unbuilt, with a rate for every variable.

    The step and the decoupled weight decay of a variable are those of the plain optimizer at its
    rate times the variable's multiplier. With multipliers of 1 it is the plain optimizer, bit for
    bit. Gradient clipping, averaging, schedules and loss scaling work as before.

    Args:
        optimizer: Any optimizer of Keras; its settings are copied, its state is not.
        multipliers: Variable path to multiplier, at least 0, for each variable that trains; 0
            leaves the variable as it is.
        cohorts: See `carry_state`.

    Raises:
        ConfigError: An optimizer that has no such form, or a multiplier out of range.
    """
    for path, value in multipliers.items():
        checks.in_range(f"multiplier of {path!r}", value, 0.0)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = with_multipliers(optimizer.inner_optimizer, multipliers, cohorts=cohorts)
        config = optimizer.get_config() | {"inner_optimizer": inner}
        return keras.optimizers.LossScaleOptimizer(**config)
    base = next((b for b in LAYERWISE if type(optimizer) in (b, LAYERWISE[b])), None)
    if base is None:
        known = ", ".join(sorted(b.__name__ for b in LAYERWISE))
        raise checks.ConfigError(
            f"Rates by variable need one of {known}. "
            + checks.received(optimizer=type(optimizer).__name__)
        )
    config = optimizer.get_config() | {"multipliers": dict(multipliers), "cohorts": cohorts}
    made = LAYERWISE[base].from_config(config)
    for name in EXCLUSIONS:
        if hasattr(optimizer, name):
            setattr(made, name, getattr(optimizer, name))
    return made


def carry_state(old: keras.optimizers.Optimizer, new: keras.optimizers.Optimizer) -> None:
    """Copies the state of a built optimizer to another one that is built on other variables.

    Both come from `with_multipliers`. Momenta follow the variable's path; the rate stays that of
    the new optimizer. A variable that the old optimizer did not train starts with the state of a
    fresh optimizer, its average with its present value; where `cohorts` of the new optimizer gives
    it a number of its own, its bias corrections start afresh too. (Nadam has one product for all
    variables, which goes on: the first steps of a variable that starts late are shorter.)
    """
    before, after = inner(old), inner(new)
    theirs = dict(keyed(old.variables))
    carried = set()
    for key, variable in keyed(new.variables):
        known = theirs.get(key)
        if known is not None and known.shape == variable.shape and key != "_learning_rate":
            variable.assign(known)
            carried.add(id(variable))
    _carry_births(before, after)
    for variable, average in averages(after):
        if id(average) not in carried:
            average.assign(variable)


def cohorts(old: keras.optimizers.Optimizer | None, variables: Iterable[Any]) -> dict[str, int]:
    """Returns the cohorts of variables that are to train after `old`; empty if all are one.

    Args:
        old: The built optimizer of the phase before, or None.
        variables: What trains in the next phase.
    """
    if old is None:
        return {}
    before = inner(old)
    known = {variable.path for variable in before._trainable_variables}
    fresh = max(before.cohorts.values(), default=0) + 1
    numbers = {
        variable.path: before.cohorts.get(variable.path, 0) if variable.path in known else fresh
        for variable in variables
    }
    return numbers if set(numbers.values()) != {0} else {}


def inner(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the optimizer below a loss scale, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def averages(optimizer: keras.optimizers.Optimizer) -> list[tuple[Any, Any]]:
    """Returns (variable, its average) for a built optimizer; empty without averaging."""
    bare = inner(optimizer)
    if not bare.use_ema:
        return []
    return list(zip(bare._trainable_variables, bare._model_variables_moving_average, strict=True))


@contextlib.contextmanager
def averaged(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Puts the averages in the place of the weights for as long as it is entered."""
    pairs = averages(optimizer)
    kept = [keras.ops.convert_to_numpy(variable) for variable, _ in pairs]
    for variable, average in pairs:
        variable.assign(average)
    try:
        yield
    finally:
        for (variable, _), value in zip(pairs, kept, strict=True):
            variable.assign(value)


def keyed(variables: Iterable[Any]) -> list[tuple[str, Any]]:
    """Returns (key, variable) for variables of an optimizer made by `with_multipliers`.

    The key is the same in every process, and whatever else trains.
    """
    return [
        (getattr(variable, KEY, variable.path.split("/")[-1]), variable) for variable in variables
    ]


def _name_state(optimizer: Any, variables: Sequence[Any]) -> None:
    """Writes the key of every variable of an optimizer's state.

    It is the attribute that holds the state and the path of the variable that it belongs to. Keras'
    own paths do not tell: those of Adafactor lack the layer, one of Nadam counts the optimizers of
    the process.
    """
    state = {id(variable) for variable in optimizer.variables}
    for name, value in vars(optimizer).items():
        if id(value) in state:
            setattr(value, KEY, name)
        elif isinstance(value, list) and name != "_variables" and len(value) == len(variables):
            for variable, slot in zip(variables, value, strict=True):
                if id(slot) in state:
                    setattr(slot, KEY, f"{name}|{variable.path.replace('/', '|')}")


def _carry_births(before: Any, after: Any) -> None:
    if after._births is None:
        return
    births = np.full(after._births.shape, int(keras.ops.convert_to_numpy(before.iterations)))
    if before._births is None:
        births[0] = 0
    else:
        known = keras.ops.convert_to_numpy(before._births)[: len(births)]
        births[: len(known)] = known
    after._births.assign(births)


def _check_paths(multipliers: Mapping[str, float], variables: Sequence[Any]) -> None:
    paths = [variable.path for variable in variables]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise checks.ConfigError(
            f"Every variable that trains needs a path of its own. Received: {twice[0]!r} twice. "
            "Name the layers of the network differently."
        )
    missing = sorted(set(paths) - multipliers.keys())
    unknown = sorted(multipliers.keys() - set(paths))
    if missing or unknown:
        raise checks.ConfigError(
            "Multipliers must name every variable that trains. "
            f"Missing: {', '.join(missing[:3]) or 'none'} ({len(missing)}). "
            f"Unknown: {', '.join(unknown[:3]) or 'none'} ({len(unknown)})."
        )
