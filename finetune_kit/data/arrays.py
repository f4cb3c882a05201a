"""Images that are in memory already."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from finetune_kit import checks
from finetune_kit.data import listing, sizes


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A source of NumPy images.

    Attributes:
        images: [n, h, w], [n, h, w, 1] or [n, h, w, N] in [0, 255], integer or float; or n arrays
            of such images without the first axis, of any sizes. N is 3 unless `load` is told
            another; one channel becomes three where N is 3.
        labels: n integers in [0, C), or n class names.
        class_names: C names; the labels in natural order if left out.
        split: n of "train", "validation", "test"; empty lets the kit split.
    """

    images: "np.ndarray | Sequence[np.ndarray]"
    labels: "np.ndarray | Sequence[int] | Sequence[str]"
    class_names: Sequence[str] = ()
    split: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class ArrayReader:
    """Gives one image of `Arrays`.

    Attributes:
        images: As in `Arrays`.
        channels: N.
    """

    images: "np.ndarray | Sequence[np.ndarray]"
    channels: int = sizes.COLOURS

    def read(self, position: int) -> np.ndarray:
        """Returns uint8 [h, w, N].

        Raises:
            DataError: Not an image in [0, 255].
        """
        image = np.asarray(self.images[position])
        if image.ndim == 2:
            image = image[..., None]
        known = (1, sizes.COLOURS) if self.channels == sizes.COLOURS else (self.channels,)
        if image.ndim != 3 or image.shape[-1] not in known or not image.size:
            grey = {1: "[h, w] or ", sizes.COLOURS: "[h, w], [h, w, 1] or "}.get(self.channels, "")
            raise checks.DataError(
                f"An image must be {grey}[h, w, {self.channels}] and not empty. "
                + checks.received(position=position, shape=image.shape)
            )
        if image.dtype.kind not in "uif":
            raise checks.DataError(
                "Pixels must be numbers. "
                + checks.received(position=position, dtype=str(image.dtype))
            )
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 255:
            raise checks.DataError(
                "Pixels must be finite and lie in [0, 255]. " + checks.received(position=position)
            )
        rounded = np.rint(image).astype(np.uint8)
        return np.repeat(rounded, self.channels // rounded.shape[-1], axis=-1)


def list_arrays(source: Arrays, channels: int = sizes.COLOURS) -> listing.Listing:
    """Lists the images of `Arrays`, which have N channels.

    Raises:
        DataError: Lengths differ, a label has no name, an unknown split, or pixels in [0, 1].
    """
    n = len(source.images)
    splits = tuple(listing.ALIASES.get(str(s), str(s)) for s in source.split) or ("",) * n
    if not n or len(source.labels) != n or len(splits) != n:
        raise checks.DataError(
            "Arrays need a label (and a split, if given) for each image. "
            + checks.received(images=n, labels=len(source.labels), split=len(splits))
        )
    unknown = sorted(set(splits) - {*listing.SPLITS, ""})
    if unknown:
        raise checks.DataError(
            f"A split must be one of {', '.join(listing.SPLITS)}. Received: {', '.join(unknown)}"
        )
    _refuse_unit_range(source.images)
    labels, classes = _named(source)
    names = tuple(f"array[{i}]" for i in range(n))
    return listing.Listing(names, labels, splits, ArrayReader(source.images, channels), classes)


def _refuse_unit_range(images: "np.ndarray | Sequence[np.ndarray]") -> None:
    """Raises `DataError` for floats that were divided by 255: the kit would see them as black."""
    for image in images:
        pixels = np.asarray(image)
        if pixels.dtype.kind != "f" or not pixels.size or not pixels.max() <= 1:
            return
    raise checks.DataError(
        "Pixels must lie in [0, 255]. Received: floats, none of them above 1. Multiply them by 255."
    )


def _named(source: Arrays) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the class name of every image, and the class names in their order."""
    raw = np.asarray(source.labels)
    if raw.ndim != 1 or raw.dtype.kind not in "iuU":
        raise checks.DataError(
            "Labels must be n integers or n class names. "
            + checks.received(shape=raw.shape, dtype=str(raw.dtype))
        )
    if raw.dtype.kind == "U":
        names = [str(name) for name in source.class_names] or listing.natural(set(raw.tolist()))
        unknown = sorted(set(raw.tolist()) - set(names))
        if unknown:
            raise checks.DataError(f"Labels must be class names. Received: {unknown[:5]}")
        return tuple(raw.tolist()), tuple(names)
    names = [str(name) for name in source.class_names]
    names = names or [str(i) for i in range(int(raw.max()) + 1)]
    if raw.min() < 0 or raw.max() >= len(names):
        raise checks.DataError(
            f"Labels must lie in [0, {len(names)}). "
            + checks.received(lowest=int(raw.min()), highest=int(raw.max()))
        )
    return tuple(names[i] for i in raw), tuple(names)
