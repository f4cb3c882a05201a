"""How long a phase trains unless somebody says otherwise."""

import math

STEPS = 400  # gradient steps: a budget, not an optimum; --epochs overrides what follows from it
FEWEST, MOST = 10, 30  # epochs: fewer leave a schedule no room, more repeat what was seen


def default_epochs(images: int, *, batch_size: int) -> tuple[int, str]:
    """Returns the default number of epochs of fine-tuning, and the reason.

    A network that has converged on its source needs steps, not epochs: many images give enough of
    them in few epochs, few images want more.

    Args:
        images: Images to train on, at least 1.
        batch_size: Images a step, at least 1.
    """
    steps = math.ceil(images / batch_size)
    epochs = min(MOST, max(FEWEST, round(STEPS / steps)))
    return epochs, (
        f"{epochs} epochs: {STEPS} steps at {steps} an epoch, within {FEWEST} to {MOST} epochs"
    )
