"""Weights from elsewhere: torch's state dicts against NumPy forward passes, saved Keras models."""

import sys

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.backbones import foreign, keys, source_head, torch_forms
from tests.backbones import torch_reference

save_file = pytest.importorskip("safetensors.numpy").save_file

NETWORKS = {
    "mobilenet": torch_reference.mobilenet,
    "vgg16": torch_reference.vgg16,
    "densenet121": torch_reference.densenet121,
    "resnet50": torch_reference.resnet50,
}
# Tensors and parameters of the bodies, from the modules themselves: convolutions · (1 or 2) + norms
# · 4; parameters of torchvision's documentation less the classifier's, plus moving statistics.
BODIES = {
    "mobilenet": (27 + 27 * 4, 218_544),
    "vgg16": (13 * 2, 138_357_544 - 123_642_856),
    "densenet121": (120 + 121 * 4, 7_978_856 - 1_025_000 + 83_648),
    "resnet50": (53 + 53 * 4, 25_557_032 - 2_049_000 + 53_120),
}


def images(size, n=2):
    """Returns raw images, float32 [n, size, size, 3] in [0, 255]."""
    return np.random.default_rng(5).uniform(0, 255, (n, size, size, 3)).astype(np.float32)


def written(path, tensors):
    """Writes a state dict and returns its path as text."""
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def quarter():
    """Returns (state dict of a MobileNet of width 0.25, its features of images of 32 px)."""
    net = torch_reference.Torch(0)
    return net.state, torch_reference.mobilenet(net, images(32))


@pytest.mark.parametrize(
    ("name", "size"),
    [("mobilenet", 32), ("mobilenet", 45), ("vgg16", 32), ("densenet121", 32), ("resnet50", 33)],
)
def test_a_state_dict_of_torch_computes_what_torch_does(tmp_path, name, size) -> None:
    net = torch_reference.Torch(1)
    expected = NETWORKS[name](net, images(size)).transpose(0, 2, 3, 1)
    path = written(tmp_path / "net.safetensors", net.state)
    backbone = backbones.load(name, image_size=size, weights=path)
    given = backbone.model(images(size))
    scale = float(np.abs(expected).max())
    assert np.std(expected) > 0.05 * scale
    np.testing.assert_allclose(given, expected, atol=1e-5 * scale)
    report = backbone.keys
    assert (len(report.loaded), report.loaded_parameters) == BODIES[name]
    assert (report.missing, report.mismatched, report.share) == ((), (), 1.0)
    head = {k for k in net.state if k.startswith(("classifier", "fc"))}
    assert set(report.unused) == head and len(head) == 2


def test_a_dense_head_beside_the_body_is_the_source_head(tmp_path) -> None:
    net = torch_reference.Torch(1)
    maps = torch_reference.resnet50(net, images(33))
    path = written(tmp_path / "net.safetensors", net.state)
    backbone = backbones.load("resnet50", image_size=33, weights=path)
    expected = maps.mean(axis=(2, 3)) @ net.state["fc.weight"].T + net.state["fc.bias"]
    head, reason = source_head.find(backbone)
    assert reason == "" and backbone.source_classes == expected.shape[1]
    given = head(backbone.model(images(33)))
    np.testing.assert_allclose(given, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"fc.weight": np.zeros((7, 99), np.float32)},  # on another map
        {"fc2.weight": np.zeros((7, 7), np.float32)},  # two layers
        {"norm.weight": np.ones(2048, np.float32)},  # it normalises first
    ],
)
def test_another_head_is_left_alone(changes) -> None:
    tensors = {"fc.weight": np.zeros((7, 2048), np.float32), "fc.bias": np.zeros(7, np.float32)}
    report = keys.KeyReport((), unused=tuple(tensors))
    assert foreign.torch_head(report, tensors, 2048).output_shape == (None, 7)
    report = keys.KeyReport((), unused=tuple(tensors | changes))
    assert foreign.torch_head(report, tensors | changes, 2048) is None
    assert foreign.torch_head(keys.KeyReport(()), {}, 2048) is None


def test_the_same_weights_compute_something_else_under_keras_conventions(quarter) -> None:
    state, expected = quarter
    tensors = {name: tensor for name, tensor in state.items() if tensor.ndim}
    plain = backbones.load("mobilenet", image_size=32, weights="none", arguments={"alpha": 0.25})
    report = foreign.load_torch(plain.model, torch_forms.FORMS["mobilenet"], tensors)
    assert report.share == 1.0
    assert np.abs(plain.model(images(32)) - expected.transpose(0, 2, 3, 1)).max() > 0.1


def test_the_width_is_that_of_the_stem_unless_it_is_given(tmp_path, quarter) -> None:
    path = written(tmp_path / "net.safetensors", quarter[0])
    assert backbones.load("mobilenet", image_size=32, weights=path).arguments == {"alpha": 0.25}
    with pytest.raises(checks.WeightsError, match=r"0 missing, 135 \(.*, file \(.*\) of another s"):
        backbones.load("mobilenet", image_size=32, weights=path, arguments={"alpha": 0.5})


def test_scaling_is_that_of_the_weights(tmp_path) -> None:
    net = torch_reference.Torch(1)
    torch_reference.vgg16(net, images(32))
    path = written(tmp_path / "net.safetensors", net.state)
    assert backbones.load("vgg16", image_size=32, weights=path).preprocessing == "torch"
    assert backbones.load("vgg16", image_size=32, weights="none").preprocessing == "caffe"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_as_it_is(tmp_path, quarter, dtype) -> None:
    halves = {name: tensor.astype(dtype) for name, tensor in quarter[0].items()}
    path = written(tmp_path / "net.safetensors", halves)
    model = backbones.load("mobilenet", image_size=32, weights=path).model
    kernel = halves["conv_stem.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("conv1").kernel, kernel)


def test_what_is_missing_stays_random_and_is_counted(tmp_path, quarter) -> None:
    state = quarter[0]
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.4.1")}
    path = written(tmp_path / "net.safetensors", kept)
    # 256 x 256 of the 1x1, 256 x 9 of the depthwise, two BatchNorms of 4 x 256.
    lost = 256 * 256 + 256 * 9 + 2 * 4 * 256
    share = 1 - lost / BODIES["mobilenet"][1]
    with pytest.raises(checks.WeightsError) as caught:
        backbones.load("mobilenet", image_size=32, weights=path)
    assert "at least 90% of its parameters (--min_loaded)" in str(caught.value)
    assert f"125 tensors loaded ({share:.1%} of 218,544 parameters), 10 (conv_dw_13/kernel " in str(
        caught.value
    )
    least = {"min_loaded": share - 0.001, "image_size": 32, "weights": path}
    one, other = (backbones.load("mobilenet", **least, seed=seed) for seed in (1, 2))
    assert one.keys.share == pytest.approx(share)
    assert one.keys.missing[0] == "conv_dw_13/kernel (blocks.4.1.conv_dw.weight)"
    pairs = zip(one.model.weights, other.model.weights, strict=True)
    drawn = [w.path for w, v in pairs if not np.array_equal(w, v)]
    assert drawn == ["conv_dw_13/kernel", "conv_pw_13/kernel"]


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path, quarter) -> None:
    stem = np.zeros((8, 1, 3, 3), np.float32)  # of grey images
    path = written(tmp_path / "net.safetensors", {**quarter[0], "conv_stem.weight": stem})
    report = backbones.load("mobilenet", image_size=32, weights=path).keys
    assert report.mismatched == ("conv1/kernel (3, 3, 3, 8), file (3, 3, 1, 8)",)
    assert len(report.loaded) == 134 and report.missing == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # Squeeze and excitation, as in seresnet50: all that a plain network needs is there.
        (lambda s: {**s, "blocks.1.0.se.fc1.weight": np.ones((4, 8, 1, 1))},
         "must be of mobilenet.* itself. Received: 1 tensors that it has no place for: blocks.1.0"),
        # Group normalisation has no moving statistics.
        (lambda s: {k: v for k, v in s.items() if "running" not in k},
         r"whole or not at all. .* only a part of 27 \(conv1_bn, "),
        (lambda s: {f"model.{k}": v for k, v in s.items()}, "0 tensors loaded"),
        (lambda s: {**s, "bn1.bias": np.full(8, np.nan)}, "finite. .* infinity in bn1.bias"),
    ],
)  # fmt: skip
def test_the_state_dict_of_another_network_is_refused(tmp_path, quarter, change, words) -> None:
    changed = {name: np.float32(tensor) for name, tensor in change(quarter[0]).items()}
    path = written(tmp_path / "net.safetensors", changed)
    with pytest.raises(checks.WeightsError, match=words):
        backbones.load("mobilenet", image_size=32, weights=path, min_loaded=0.0)


def test_networks_without_an_equal_in_torch_are_refused(tmp_path, quarter) -> None:
    path = written(tmp_path / "net.safetensors", quarter[0])
    for name in ("bundled", "efficientnet_b0", "resnet50_v2", "spec:32|64"):
        with pytest.raises(checks.WeightsError, match="loaded into densenet121, .*vgg19, which"):
            backbones.load(name, weights=path)


def test_files_that_are_absent_damaged_or_would_run_code(tmp_path, monkeypatch) -> None:
    damaged, pickled = tmp_path / "net.safetensors", str(tmp_path / "net.pth")
    damaged.write_bytes(b"PK\x03\x04" * 99)
    with pytest.raises(checks.WeightsError, match=".safetensors file must be whole. Received"):
        backbones.load("mobilenet", weights=str(damaged))
    with pytest.raises(checks.WeightsError, match="which does not exist"):
        backbones.load("mobilenet", weights="gone.safetensors")
    with pytest.raises(checks.UntrustedFileError, match="a pickle, which would run code. Save"):
        backbones.load("mobilenet", weights=pickled)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(checks.EnvironmentFault, match=r"pip install finetune-kit\[safetensors\]"):
        backbones.load("mobilenet", weights=str(damaged))


def test_a_run_of_the_kit_is_a_start_for_the_next(tmp_path) -> None:
    source = backbones.load("mobilenet", image_size=32, weights="none", arguments={"alpha": 0.25})
    path = str(tmp_path / "model.keras")
    backbones.attach_head(source, 3).predictor().save(path)
    loaded = backbones.load("mobilenet", image_size=48, weights=path, seed=9)
    assert loaded.arguments == {"alpha": 0.25} and loaded.source_classes is None
    assert loaded.keys.unused == ("head/kernel", "head/bias")
    assert loaded.keys.is_complete and loaded.keys.share == 1.0
    for value, expected in zip(loaded.model.weights, source.model.weights, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", ["bundled", "spec:8-16|32"])
def test_networks_of_the_kit_are_loaded_from_saved_ones(tmp_path, name) -> None:
    source = backbones.load(name, weights="none", seed=1)
    path = str(tmp_path / "model.keras")
    backbones.attach_head(source, 3).predictor().save(path)
    loaded = backbones.load(name, weights=path, seed=2)
    np.testing.assert_array_equal(loaded.model(images(32)), source.model(images(32)))


def counted(*, filters=4, strides=1, dtype="float32", scale=None):
    """Returns a network whose layers Keras names by counting."""
    pixels = x = keras.Input((8, 8, 3))
    if scale:
        x = layers.Rescaling(scale)(x)
    for width in (filters, filters, 2 * filters):
        x = layers.Conv2D(width, 3, strides, padding="same", dtype=dtype)(x)
        x = layers.BatchNormalization(dtype=dtype)(x)
    return keras.Model(pixels, x)


def test_names_that_keras_counts_are_counted_anew(tmp_path) -> None:
    source = counted()
    layers.Conv2D(1, 1)  # moves the counter
    saved = keras.Model(source.input, layers.Dense(2)(source.output))
    saved.save(tmp_path / "net.keras")
    twin = counted()
    assert {x.name for x in source.layers}.isdisjoint({x.name for x in twin.layers})
    report = foreign.load_keras(twin, foreign.read_keras(str(tmp_path / "net.keras")), "net.keras")
    assert report.is_complete and report.unused == ("dense:0/kernel", "dense:0/bias")
    for value, expected in zip(twin.weights, source.weights, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["inception_v3", "xception", "convnext_tiny", "efficientnet_b0", "nasnet_mobile"]
)
def test_branches_whose_layers_have_counted_names_stay_apart(tmp_path, name) -> None:
    source = backbones.load(name, image_size=96, weights="none", seed=1)
    path = str(tmp_path / "model.keras")
    backbones.attach_head(source, 3).predictor().save(path)
    loaded = backbones.load(name, image_size=96, weights=path, seed=2)
    assert loaded.keys.is_complete
    scale = float(np.abs(source.model(images(96))).max())
    np.testing.assert_allclose(
        loaded.model(images(96)), source.model(images(96)), atol=1e-5 * scale
    )


def test_a_model_within_a_model_is_walked_in_order(tmp_path) -> None:
    source = counted()
    pixels = keras.Input((8, 8, 3))
    keras.Model(pixels, source(pixels)).save(tmp_path / "net.keras")
    twin = counted()
    foreign.load_keras(twin, foreign.read_keras(str(tmp_path / "net.keras")), "net.keras")
    for value, expected in zip(twin.weights, source.weights, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"strides": 2}, "conv2d:0 has strides=.2, 2., not .1, 1."),
        ({"scale": 0.5}, "pixels are scaled by 0.5, not by 2.0"),
    ],
)
def test_layers_that_would_compute_otherwise_are_refused(given, words) -> None:
    with pytest.raises(
        checks.WeightsError, match=f"computed alike. Received: 'n.keras', .*{words}"
    ):
        foreign.load_keras(counted(scale=2.0), counted(**{"scale": 2.0, **given}), "n.keras")


def test_torchs_form_of_a_network_is_not_taken_for_keras_own(tmp_path, quarter) -> None:
    path = written(tmp_path / "net.safetensors", quarter[0])
    saved = str(tmp_path / "net.keras")
    backbones.load("mobilenet", image_size=32, weights=path).model.save(saved)
    with pytest.raises(checks.WeightsError, match="conv1 has padding='valid', not 'same'.*epsilon"):
        backbones.load("mobilenet", image_size=32, weights=saved)


def test_the_saved_model_of_another_network_is_refused_with_numbers(tmp_path) -> None:
    counted().save(tmp_path / "net.keras")
    with pytest.raises(
        checks.WeightsError, match=r"0 tensors loaded .* 35 \(block_1_conv_1/kernel"
    ):
        backbones.load("bundled", weights=str(tmp_path / "net.keras"), min_loaded=0.0)


def test_a_saved_model_of_two_equal_bodies_is_ambiguous(tmp_path) -> None:
    body = backbones.load("spec:8", weights="none").model
    twin = backbones.load("spec:8", weights="none").model
    twin.name = "twin"
    pixels = keras.Input((32, 32, 3))
    both = keras.Model(pixels, layers.Add()([body(pixels), twin(pixels)]))
    with pytest.raises(
        checks.WeightsError, match="each layer of spec once. .*'n.keras' with sever"
    ):
        foreign.load_keras(backbones.load("spec:8", weights="none").model, both, "n.keras")


def test_a_saved_model_with_code_or_damage_is_refused(tmp_path) -> None:
    pixels = keras.Input((8, 8, 3))
    keras.Model(pixels, layers.Lambda(lambda x: x + 1)(pixels)).save(tmp_path / "code.keras")
    with pytest.raises(checks.UntrustedFileError, match="made of Keras layers alone"):
        foreign.read_keras(str(tmp_path / "code.keras"))
    (tmp_path / "net.keras").write_bytes(b"no archive")
    with pytest.raises(checks.WeightsError, match="must be whole. Received: .*which is no archive"):
        backbones.load("bundled", weights=str(tmp_path / "net.keras"))
    model = counted()
    model.weights[0].assign(np.full(model.weights[0].shape, np.inf))
    model.save(tmp_path / "net.keras")
    with pytest.raises(checks.WeightsError, match="must be finite.*infinity in conv2d.*kernel"):
        foreign.read_keras(str(tmp_path / "net.keras"))
    whole = (tmp_path / "net.keras").read_bytes()
    (tmp_path / "net.keras").write_bytes(whole.replace(b"model.weights.h5", b"model.weights.h6"))
    with pytest.raises(checks.WeightsError, match="must be whole. Received: "):
        foreign.read_keras(str(tmp_path / "net.keras"))


def test_every_kind_of_weights_says_what_it_gave(tmp_path) -> None:
    path = str(tmp_path / "net.weights.h5")
    source = backbones.load("spec:8|16", weights="none")
    assert source.keys is None
    backbones.attach_head(source, 3).model.save_weights(path)
    report = backbones.load("spec:8|16", weights=path).keys
    assert len(report.loaded) == 10 and report.unused == ("(16, 3)",)
    assert report.parameters == report.loaded_parameters == 27 * 8 + 72 * 16 + 4 * 24
    assert backbones.load("bundled").keys.is_complete


def test_a_report_in_one_line_and_in_json() -> None:
    report = keys.KeyReport(("a/k", "b/k"), ("c/k",), (), tuple("defgh"), 200, 150)
    assert report.line() == (
        "2 tensors loaded (75.0% of 200 parameters), 1 (c/k) missing, 0 of another shape, "
        "5 (d, e, f, …) unused"
    )
    assert report.to_dict()["unused"] == {"count": 5, "examples": ["d", "e", "f"]}
    assert report.to_dict()["share"] == 0.75 and report.halves == ()
    keys.refuse_poor(report, 0.75, source="x", network="n")
    with pytest.raises(checks.WeightsError, match="at least 76%"):
        keys.refuse_poor(report, 0.76, source="x", network="n")
