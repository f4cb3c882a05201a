"""Forward passes of torchvision's and timm's networks in NumPy, which make their own state dicts.

Written from the definitions of the layers (cross-correlation with even zero padding, BatchNorm with
its moving statistics and 1e-5) and the modules' names; neither Keras nor torch has a part in it.
"""

import numpy as np

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
HALF = (np.full(3, 0.5), np.full(3, 0.5))


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def windows(x, k, stride, padding, fill=0.0):
    """Returns [n, c, h, w, k, k] of maps [n, c, h, w]."""
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    x = np.pad(x, around, constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), (2, 3))[:, :, ::stride, ::stride]


def max_pool(x, k, stride, padding=0):
    return windows(x, k, stride, padding, -np.inf).max(axis=(4, 5))


class Torch:
    """Layers that draw their tensors when they are first used.

    Attributes:
        state: Name to tensor, as `state_dict` has them.
    """

    def __init__(self, seed):
        self.state = {}
        self._generator = np.random.default_rng(seed)

    def _tensor(self, name, shape, low=-1.0, high=1.0):
        if name not in self.state:
            self.state[name] = self._generator.uniform(low, high, shape).astype(np.float32)
        return self.state[name].astype(np.float64)

    def conv(self, name, x, out, k, stride=1, *, padding=None, groups=1, bias=False):
        channels = x.shape[1] // groups
        reach = (3 / (channels * k * k)) ** 0.5  # keeps the variance
        w = self._tensor(f"{name}.weight", (out, channels, k, k), -reach, reach)
        seen = windows(x, k, stride, k // 2 if padding is None else padding)
        if groups == 1:
            y = np.einsum("nchwij,ocij->nohw", seen, w, optimize=True)
        else:
            y = np.einsum("nchwij,cij->nchw", seen, w[:, 0])
        return y + self._tensor(f"{name}.bias", out)[:, None, None] if bias else y

    def norm(self, name, x):
        c = x.shape[1]
        gamma, beta = self._tensor(f"{name}.weight", c, 0.5, 1.5), self._tensor(f"{name}.bias", c)
        mean = self._tensor(f"{name}.running_mean", c, -0.5, 0.5)
        variance = self._tensor(f"{name}.running_var", c, 0.2, 1.5)
        self.state[f"{name}.num_batches_tracked"] = np.array(7)
        scale = gamma / np.sqrt(variance + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + beta[:, None, None]

    def linear(self, name, x, out):
        w = self._tensor(f"{name}.weight", (out, x.shape[1]))
        return x @ w.T + self._tensor(f"{name}.bias", out)


def scaled(pixels, moments):
    """Returns maps [n, 3, h, w] of raw pixels [n, h, w, 3]."""
    mean, deviation = moments
    return ((pixels / 255 - mean) / deviation).transpose(0, 3, 1, 2)


def mobilenet(net, pixels, width=0.25):
    """timm's mobilenetv1 with 32 · width filters in the stem."""
    x = scaled(pixels, HALF)
    x = relu6(net.norm("bn1", net.conv("conv_stem", x, int(32 * width), 3, 2)))
    # Output channels and stride of the blocks (Howard et al., 2017, table 1).
    stages = ([(64, 1)], [(128, 2), (128, 1)], [(256, 2), (256, 1)],
              [(512, 2), *[(512, 1)] * 5], [(1024, 2), (1024, 1)])  # fmt: skip
    for s, blocks in enumerate(stages):
        for b, (out, stride) in enumerate(blocks):
            name, c = f"blocks.{s}.{b}", x.shape[1]
            x = net.conv(f"{name}.conv_dw", x, c, 3, stride, groups=c)
            x = relu6(net.norm(f"{name}.bn1", x))
            x = net.conv(f"{name}.conv_pw", x, int(out * width), 1)
            x = relu6(net.norm(f"{name}.bn2", x))
    net.linear("classifier", x.mean(axis=(2, 3)), 10)
    return x


def vgg16(net, pixels):
    """torchvision's vgg16; only the first layer of its classifier is made."""
    x, position = scaled(pixels, IMAGENET), 0
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for out in block:
            x = relu(net.conv(f"features.{position}", x, out, 3, bias=True))
            position += 2
        x, position = max_pool(x, 2, 2), position + 1
    net.linear("classifier.0", x.reshape(len(x), -1), 8)
    return x


def densenet121(net, pixels):
    """torchvision's densenet121 (Huang et al., 2017, table 1)."""
    x = scaled(pixels, IMAGENET)
    x = relu(net.norm("features.norm0", net.conv("features.conv0", x, 64, 7, 2)))
    x = max_pool(x, 3, 2, 1)
    for b, count in enumerate((6, 12, 24, 16), start=1):
        for i in range(1, count + 1):
            name = f"features.denseblock{b}.denselayer{i}"
            y = net.conv(f"{name}.conv1", relu(net.norm(f"{name}.norm1", x)), 128, 1)
            y = net.conv(f"{name}.conv2", relu(net.norm(f"{name}.norm2", y)), 32, 3)
            x = np.concatenate([x, y], axis=1)
        if b < 4:
            name = f"features.transition{b}"
            x = net.conv(f"{name}.conv", relu(net.norm(f"{name}.norm", x)), x.shape[1] // 2, 1)
            x = windows(x, 2, 2, 0).mean(axis=(4, 5))
    x = relu(net.norm("features.norm5", x))
    net.linear("classifier", x.mean(axis=(2, 3)), 10)
    return x


def resnet50(net, pixels):
    """torchvision's resnet50, version 1.5: a block strides in its 3x3."""
    x = relu(net.norm("bn1", net.conv("conv1", scaled(pixels, IMAGENET), 64, 7, 2)))
    x = max_pool(x, 3, 2, 1)
    for s, count in enumerate((3, 4, 6, 3), start=1):
        for b in range(count):
            name, width, short = f"layer{s}.{b}", 64 * 2 ** (s - 1), x
            stride = 2 if b == 0 and s > 1 else 1
            y = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, width, 1)))
            y = relu(net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", y, width, 3, stride)))
            y = net.norm(f"{name}.bn3", net.conv(f"{name}.conv3", y, 4 * width, 1))
            if b == 0:
                short = net.conv(f"{name}.downsample.0", x, 4 * width, 1, stride)
                short = net.norm(f"{name}.downsample.1", short)
            x = relu(y + short)
    net.linear("fc", x.mean(axis=(2, 3)), 10)
    return x
