"""Images turned by quarters of a circle, labelled with how far: a task that needs no labels.

Gidaris et al., 2018, "Unsupervised Representation Learning by Predicting Image Rotations".
"""

import numpy as np

from finetune_kit.data import types

TURNS = 4  # by 0, 90, 180 and 270 degrees, counter-clockwise


class RotatedStore:
    """The images of a split in every turn; position `TURNS * i + k` is image i after k quarters.

    Attributes:
        size: Side s in pixels.
        shape: Of one image, (s, s, N).
    """

    def __init__(self, split: types.Split) -> None:
        """Wraps the split; nothing is copied."""
        self._split = split
        self.size, self.shape = split.store.size, split.store.shape

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Returns turned images, uint8 [b, s, s, N]."""
        images, turns = np.divmod(indices, TURNS)
        upright = self._split.store.batch(self._split.indices[images])
        return np.stack(
            [np.rot90(image, k) for image, k in zip(upright, turns.tolist(), strict=True)]
        )


def rotations(split: types.Split) -> types.Split:
    """Returns every image of a split in its four turns, labelled 0 to 3.

    Args:
        split: n images.

    Returns:
        4 n images; those of image i are at 4 i to 4 i + 3.
    """
    count = TURNS * len(split)
    names = tuple(f"{name}@{90 * k}" for name in split.names for k in range(TURNS))
    store = RotatedStore(split)
    return types.Split(store, np.arange(count), np.arange(count) % TURNS, names)  # type: ignore[arg-type]
