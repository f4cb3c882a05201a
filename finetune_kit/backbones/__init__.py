"""Pretrained networks behind one type: preprocessing, stages by depth, the bundled network."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Backbone": "types",
        "Classifier": "classifier",
        "KeyReport": "keys",
        "SourceCard": "card",
        "Stage": "types",
        "attach_head": "classifier",
        "auditing": "auditing",
        "building": "building",
        "card": "card",
        "catalogue": "catalogue",
        "find_stages": "stages",
        "find_taps": "taps",
        "flops": "flops",
        "fully_convolutional": "tops",
        "has_batch_norm": "taps",
        "keep_dense": "source_head",
        "load": "loading",
        "network": "network",
        "published": "published",
    },
)
