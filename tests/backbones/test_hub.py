"""Presets of KerasHub: the same features by Keras' own layers, at any size, with stages."""

import builtins
import importlib.util
import math

import keras
import numpy as np
import pytest
from PIL import Image

from finetune_kit import backbones, checks, results
from finetune_kit.backbones import catalogue, hub_names, tokens
from finetune_kit.data import sizes
from recipes import auto, head_only, last_stages
from tests.recipes import coloured

INSTALLED = importlib.util.find_spec("keras_hub") is not None
# KerasHub's Swin hands a mask to a layer that takes none, and is told so by Keras.
pytestmark = pytest.mark.filterwarnings("ignore:.*passed an input with a mask:UserWarning")
needs_hub = pytest.mark.skipif(not INSTALLED, reason="needs keras-hub")
TRANSFORMERS = {
    "ViT": {"image_shape": (32, 32, 3), "patch_size": 8, "num_layers": 6, "num_heads": 2,
            "hidden_dim": 16, "mlp_dim": 24, "dropout_rate": 0.1},
    "DeiT": {"image_shape": (32, 32, 3), "patch_size": 8, "num_layers": 6, "num_heads": 2,
             "hidden_dim": 16, "intermediate_dim": 24},
}  # fmt: skip


def images(size, n=2):
    """Returns raw images, float32 [n, h, w, 3] in [0, 255], of a side or of (h, w)."""
    return np.random.default_rng(0).uniform(0, 255, (n, *sizes.shape(size))).astype(np.float32)


def transformer(kind, **values):
    """Returns a small random ViT or DeiT, no two weights alike."""
    hub = pytest.importorskip("keras_hub")
    model = getattr(hub.models, f"{kind}Backbone")(**TRANSFORMERS[kind] | values)
    generator = np.random.default_rng(1)
    values = [generator.normal(0, 0.2, w.shape) + 0.1 for w in model.get_weights()]
    # Of raw pixels, so that patches are no larger than positions and class tokens.
    model.set_weights([0.002 * v if v.ndim == 4 else v for v in values])
    return model


@pytest.fixture
def saved(tmp_path):
    """Saves a backbone of KerasHub as a preset, with a converter if one is given."""

    def save(model, converter=None):
        folder = tmp_path / "preset"
        model.save_to_preset(str(folder))
        if converter is not None:
            converter.save_to_preset(str(folder))
        return f"hub:{folder}"

    return save


def patches(tokens_, others):
    """Returns the map [b, g, g, c] of tokens [b, others + g * g, c]."""
    rows = np.asarray(tokens_)[:, others:]
    side = math.isqrt(rows.shape[1])
    return rows.reshape(len(rows), side, side, -1)


OTHERS = {"ViT": 1, "DeiT": 2}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_transformer_of_keras_layers_gives_the_same(saved, kind) -> None:
    model = transformer(kind)
    backbone = backbones.load(saved(model))
    assert (backbone.image_size, backbone.weights, backbone.preprocessing) == (32, "own", "none")
    expected = patches(model(images(32)), OTHERS[kind])
    assert expected.std() > 0.1
    np.testing.assert_allclose(backbone.model(images(32)), expected, rtol=1e-3, atol=1e-4)
    assert all(type(x).__module__.startswith("keras.") for x in backbone.model._flatten_layers())
    tokens_ = TRANSFORMERS[kind]["hidden_dim"] * OTHERS[kind]  # added to their positions
    assert backbone.model.count_params() == model.count_params() - tokens_


@needs_hub
def test_a_transformer_without_class_token(saved) -> None:
    model = transformer("ViT", use_class_token=False)
    backbone = backbones.load(saved(model))
    expected = patches(model(images(32)), 0)
    np.testing.assert_allclose(backbone.model(images(32)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_blocks_are_cut_into_four_stages_behind_the_embedding(saved, kind) -> None:
    backbone = backbones.load(saved(transformer(kind)))
    model, stages = backbone.model, backbone.stages
    names = [name for stage in stages for name in stage.layers]
    assert sorted(names) == sorted(layer.name for layer in model.layers)
    blocks = [
        sorted({name.split("_")[1] for name in stage.layers if name.startswith("block")})
        for stage in stages
    ]
    assert blocks == [[], ["1"], ["2", "3"], ["4"], ["5", "6"]]
    assert {"patch_embedding", "position_embedding"} <= set(stages[0].layers)
    assert [stage.divisor for stage in stages] == [8] * 5
    expected = model(images(32))
    for stage in stages[:-1]:
        before = keras.Model(model.inputs[0], stage.output)
        behind = keras.Model(stage.output, model.outputs[0])
        np.testing.assert_allclose(behind(before(images(32))), expected, rtol=1e-5)
    assert stages[-1].output is model.outputs[0]


@pytest.mark.parametrize(("size", "grid"), [(48, (6, 6)), (16, (2, 2)), ((24, 64), (3, 8))])
def test_positions_are_interpolated_at_other_sizes(saved, size, grid) -> None:
    model = transformer("ViT")
    backbone = backbones.load(saved(model), image_size=size)
    assert backbone.model.output_shape == (None, *grid, 16) and backbone.image_size == size
    larger = transformer("ViT", image_shape=sizes.shape(size))
    table = np.asarray(model.layers[1].position_embedding.embeddings)
    square = table[1:].reshape(4, 4, 16)
    resized = [
        np.asarray(Image.fromarray(square[..., c]).resize(grid[::-1], Image.Resampling.BICUBIC))
        for c in range(16)
    ]
    rows = np.concatenate([table[:1], np.stack(resized, axis=-1).reshape(-1, 16)])
    larger.set_weights([rows if w.shape == table.shape else w for w in model.get_weights()])
    expected = np.asarray(larger(images(size)))[:, 1:].reshape(2, *grid, 16)
    np.testing.assert_allclose(backbone.model(images(size)), expected, rtol=1e-2, atol=1e-2)


def test_positions_of_their_own_number_are_left_alone() -> None:
    table = np.random.default_rng(0).normal(size=(18, 3))
    assert tokens.interpolated(table, (4, 4)) is table
    other = tokens.interpolated(table, (7, 5))
    assert other.shape == (2 + 35, 3)
    np.testing.assert_array_equal(other[:2], table[:2])


@needs_hub
def test_a_side_that_is_no_multiple_of_the_patches(saved) -> None:
    with pytest.raises(checks.ConfigError, match="multiple of 8 px. Received: image_size=36"):
        backbones.load(saved(transformer("ViT")), image_size=36)
    with pytest.raises(checks.ConfigError, match=r"of 8 px. Received: image_size=\(32, 36\)"):
        backbones.load(saved(transformer("ViT")), image_size=(32, 36))


def convolutional():
    """Returns a small random network of KerasHub that is made of Keras' layers."""
    hub = pytest.importorskip("keras_hub")
    model = hub.models.DenseNetBackbone(
        stackwise_num_repeats=[1, 1], growth_rate=4, image_shape=(None, None, 3)
    )
    generator = np.random.default_rng(1)
    model.set_weights([generator.uniform(0.01, 0.1, w.shape) for w in model.get_weights()])
    return model


def test_a_convolutional_network_with_its_converter(saved) -> None:
    model, hub = convolutional(), pytest.importorskip("keras_hub")
    scale, offset = [0.02, 0.03, 0.01], [-1.0, 0.5, -0.25]
    converter = hub.layers.DenseNetImageConverter(scale=scale, offset=offset)
    name = saved(model, converter)
    backbone = backbones.load(name, image_size=64)
    assert backbone.name == name and backbone.preprocessing == ""
    expected = np.asarray(model(images(64) * scale + offset))
    assert expected.std() > 0
    np.testing.assert_allclose(backbone.model(images(64)), expected, rtol=1e-3)
    assert len(backbone.stages) > 2
    told = backbones.load(name, image_size=64, preprocessing="unit")
    assert told.preprocessing == "unit"
    np.testing.assert_allclose(told.model(images(64)), model(images(64) / 255), rtol=1e-3)


def shifting(**values):
    """Returns a small random Swin transformer, no two weights alike."""
    hub = pytest.importorskip("keras_hub")
    given = {
        "image_shape": (32, 32, 3), "patch_size": 2, "embed_dim": 8, "depths": [2, 3, 2],
        "num_heads": [1, 2, 4], "window_size": 4, "dropout_rate": 0.1, "drop_path": 0.2,
    }  # fmt: skip
    model = hub.models.SwinTransformerBackbone(**given | values)
    generator = np.random.default_rng(1)
    drawn = [generator.normal(0, 0.3, w.shape) + 0.1 for w in model.get_weights()]
    model.set_weights([0.002 * v if v.ndim == 4 else v for v in drawn])
    return model


@needs_hub
@pytest.mark.parametrize("values", [{}, {"patch_norm": False, "qkv_bias": False, "drop_path": 0.0}])
def test_a_swin_transformer_of_keras_layers_gives_the_same(saved, values) -> None:
    model = shifting(**values)
    backbone = backbones.load(saved(model))
    expected = np.asarray(model(images(32))).reshape(2, 4, 4, 32)
    assert expected.std() > 0.1
    np.testing.assert_allclose(backbone.model(images(32)), expected, rtol=1e-3, atol=1e-4)
    assert all(type(x).__module__.startswith("keras.") for x in backbone.model._flatten_layers())
    assert backbone.model.count_params() == model.count_params()


@needs_hub
def test_a_swin_transformer_has_a_stage_for_every_resolution(saved) -> None:
    backbone = backbones.load(saved(shifting()))
    assert [stage.divisor for stage in backbone.stages] == [2, 4, 8]
    blocks = [sorted({n[:15] for n in stage.layers if "block" in n}) for stage in backbone.stages]
    assert blocks == [[f"stage_{s}_block_{b}" for b in range(1, n + 1)]
                      for s, n in ((1, 2), (2, 3), (3, 2))]  # fmt: skip
    assert {"patch_embedding", "patch_norm"} <= set(backbone.stages[0].layers)
    assert {"stage_1_merge_norm", "stage_1_merge_reduction"} <= set(backbone.stages[1].layers)


@needs_hub
def test_a_swin_transformer_takes_other_sizes(saved, tmp_path) -> None:
    name, larger = saved(shifting()), shifting(image_shape=(64, 64, 3))
    expected = np.asarray(larger(images(64))).reshape(2, 8, 8, 32)
    backbone = backbones.load(name, image_size=64)
    np.testing.assert_allclose(backbone.model(images(64)), expected, rtol=1e-3, atol=1e-4)
    # Windows of 4 on maps of 6 are padded; at the end, maps of 3 and of 2 are one window each.
    assert backbones.load(name, image_size=24).model.output_shape == (None, 3, 3, 32)
    assert backbones.load(name, image_size=16).model.output_shape == (None, 2, 2, 32)
    with pytest.raises(checks.ConfigError, match="multiple of 2 px. Received: image_size=33"):
        backbones.load(name, image_size=33)


@needs_hub
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_a_swin_transformer_takes_oblong_images(saved, size) -> None:
    name = saved(shifting())
    # Where one side of a map fits into a window and the other does not, too.
    assert backbones.load(name, image_size=(16, 64)).model.output_shape == (None, 2, 8, 32)
    backbone, map_ = backbones.load(name, image_size=size), (size[0] // 8, size[1] // 8)
    assert backbone.model.output_shape == (None, *map_, 32) and backbone.image_size == size
    expected = np.asarray(shifting(image_shape=sizes.shape(size))(images(size)))
    np.testing.assert_allclose(
        backbone.model(images(size)), expected.reshape(2, *map_, 32), rtol=1e-3, atol=1e-4
    )


@needs_hub
def test_a_swin_transformer_that_is_saved_is_the_same(saved, tmp_path) -> None:
    model = backbones.load(saved(shifting())).model
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(images(32), verbose=0),
                                  model.predict(images(32), verbose=0))  # fmt: skip


@needs_hub
def test_random_weights_and_precision(saved) -> None:
    name = saved(transformer("ViT"))
    first, again, other = (backbones.load(name, weights="none", seed=s) for s in (1, 1, 2))
    drawn = [b.model.get_layer("block_1_widen").get_weights()[0] for b in (first, again, other)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2]) and first.weights == "none"
    mixed = backbones.load(name, precision="mixed_bfloat16").model
    assert mixed.get_layer("block_1_attention").compute_dtype == "bfloat16"
    assert mixed.get_layer("patch_embedding").kernel.dtype == "float32"
    exact = np.asarray(backbones.load(name).model(images(32)))
    np.testing.assert_allclose(np.asarray(mixed(images(32)), np.float32), exact, atol=0.3)


@needs_hub
def test_what_cannot_be_a_backbone_is_refused_in_a_line(saved, tmp_path) -> None:
    hub = pytest.importorskip("keras_hub")
    mixer = hub.models.MiTBackbone(
        image_shape=(32, 32, 3), layerwise_depths=[1, 1], num_layers=2, layerwise_num_heads=[1, 1],
        layerwise_sr_ratios=[2, 1], max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2], hidden_dims=[8, 16],
    )  # fmt: skip
    with pytest.raises(checks.ConfigError, match="ViT, DeiT and Swin can be a b.*Hierarchical"):
        backbones.load(saved(mixer))
    with pytest.raises(checks.WeightsError, match="brings its own weights"):
        backbones.load(saved(transformer("ViT")), weights="imagenet")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[]")
    with pytest.raises(checks.WeightsError, match="a preset that KerasHub can load") as caught:
        backbones.load(f"hub:{tmp_path / 'broken'}")
    assert "\n" not in str(caught.value)


def test_names_are_looked_at_without_kerashub(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "config.json").write_text('{"config": {"image_shape": [96, 96, 3]}}')
    imported, original = [], builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *a, **k: (imported.append(name), original(name, *a, **k))[1],
    )
    assert hub_names.default_side(f"hub:{tmp_path}") == 96
    assert catalogue.image_size("hub:vit_base_patch16_384_imagenet") == 384
    assert catalogue.image_size("hub:vit_base_patch16_384_imagenet", 64) == 64
    assert catalogue.image_size("hub:efficientnet_b0_ra_imagenet") == 224
    assert catalogue.canonical("hub:kaggle://keras/vit") == "hub:kaggle://keras/vit"
    assert "keras_hub" not in imported
    with pytest.raises(checks.WeightsError, match="the folder of one with its config.json. Rec"):
        catalogue.image_size(f"hub:{tmp_path / 'nowhere'}")
    with pytest.raises(checks.ConfigError, match="needs a preset, such as hub:vit"):
        catalogue.canonical("hub:")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(checks.EnvironmentFault, match=r"Install finetune-kit\[hub\]"):
        catalogue.canonical("hub:vit_base")


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: transformer("ViT"), shifting], ids=["ViT", "Swin"])
@pytest.mark.parametrize("recipe", [head_only, last_stages, auto])
def test_a_transformer_is_fine_tuned_and_what_is_frozen_stays(
    saved, tmp_path, recipe, make
) -> None:
    name = saved(make())
    photos = coloured.write(tmp_path / "photos")
    values = {} if recipe is head_only else {"epochs": 1}
    config = recipe.Config(
        backbone=name, data=str(photos), workdir=str(tmp_path / "run"), tensorboard=False, **values
    )
    report = recipe.run(config)
    tuned, _ = results.load_model(tmp_path / "run")  # of Keras' layers alone
    layers = {x.name: x for x in tuned._flatten_layers()}
    backbone = backbones.load(name)
    multipliers = report.phases[-1]["multipliers"]
    frozen = [stage for stage in backbone.stages if not multipliers[stage.name]]
    assert recipe is auto or len(frozen) >= len(backbone.stages) - 1
    for stage in frozen:
        for layer in stage.layers:
            for a, b in zip(
                layers[layer].get_weights(), backbone.model.get_layer(layer).get_weights(),
                strict=True,
            ):  # fmt: skip
                np.testing.assert_array_equal(a, b)
