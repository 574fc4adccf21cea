"""What the zoos' own code makes of images: ``python -m tests.frameworks.preprocess ZOO OUT.npz FILE…`` in a process of its own.

Each function takes a file and returns (299, 299, 3) float32, by the transforms that the zoo evaluates its Xception with.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Read = Callable[[str], np.ndarray]


def timm() -> Read:
    return _torchvision("bicubic", 0.8975)


def _torchvision(interpolation: str, crop: float) -> Read:
    from xconvert.backends.timm import import_timm

    import_timm()
    from PIL import Image
    from timm.data import create_transform

    half = (0.5, 0.5, 0.5)
    transform = create_transform((3, 299, 299), interpolation=interpolation, mean=half, std=half, crop_pct=crop)
    return lambda file: transform(Image.open(file).convert("RGB")).numpy().transpose(1, 2, 0)


def cadene() -> Read:
    """pretrainedmodels' TransformImage is torchvision's Resize (bilinear) and CenterCrop, with the same numbers."""
    return _torchvision("bilinear", 0.8975)


def keras_applications() -> Read:
    import keras

    def read(file: str) -> np.ndarray:
        image = keras.utils.load_img(file, target_size=(299, 299))
        return keras.applications.xception.preprocess_input(keras.utils.img_to_array(image))

    return read


def keras_hub() -> Read:
    import keras
    import keras_hub

    options = {"image_size": (299, 299), "scale": 1 / 127.5, "offset": -1, "interpolation": "bilinear"}
    convert = keras_hub.layers.XceptionImageConverter(**options, crop_to_aspect_ratio=True, antialias=False)
    return lambda file: np.asarray(convert(keras.utils.img_to_array(keras.utils.load_img(file))))


def tf_deeplab() -> Read:
    """``preprocess_for_eval`` of slim's inception_preprocessing, operation by operation: slim itself wants TensorFlow 1."""
    import tensorflow as tf

    def read(file: str) -> np.ndarray:
        image = tf.image.decode_image(Path(file).read_bytes(), 3, expand_animations=False)
        image = tf.image.central_crop(tf.image.convert_image_dtype(image, tf.float32), central_fraction=0.875)
        image = tf.compat.v1.image.resize_bilinear(image[None], [299, 299], align_corners=False)[0]
        return ((image - 0.5) * 2.0).numpy()

    return read


def paddleclas() -> Read:
    """The operators of ``ppcls/configs/ImageNet/Xception/*.yaml``, in the file of the package that has them."""
    ops = _file_of_paddleclas("deploy/python/preprocess.py")
    scale = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    steps = [ops.DecodeImage(to_rgb=True), ops.ResizeImage(resize_short=320), ops.CropImage(299)]
    steps.append(ops.NormalizeImage(**scale, order=""))

    def read(file: str) -> Any:
        image: Any = Path(file).read_bytes()
        for step in steps:
            image = step(image)
        return image

    return read


def _file_of_paddleclas(name: str) -> ModuleType:
    """One file of the package; what it imports of others, which want more packages, is not used here."""
    found = importlib.util.find_spec("paddleclas")
    assert found and found.origin

    class Nothing(SimpleNamespace):
        def __getattr__(self, name: str) -> None:
            return None

    stand_ins = ("paddle.vision.transforms", "paddleclas", "paddleclas.deploy", "paddleclas.deploy.python.det_preprocess")
    sys.modules.update({stand_in: Nothing() for stand_in in stand_ins})  # type: ignore[misc]
    spec = importlib.util.spec_from_file_location("operators", Path(found.origin).parent / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mindcv() -> Read:
    """``transforms_imagenet_eval(299, 0.875)``, step by step on one image as a data set would take them."""
    from mindcv.data.transforms_factory import transforms_imagenet_eval

    steps = transforms_imagenet_eval(image_resize=299, crop_pct=0.875, interpolation="bilinear")

    def read(file: str) -> np.ndarray:
        image: Any = np.fromfile(file, np.uint8)
        for step in steps:
            image = step(image)
        return image.transpose(1, 2, 0)

    return read


ZOOS: dict[str, Callable[[], Read]] = {
    "timm": timm,
    "cadene": cadene,
    "keras.applications": keras_applications,
    "keras-hub": keras_hub,
    "tf-deeplab": tf_deeplab,
    "paddleclas": paddleclas,
    "mindcv": mindcv,
}


if __name__ == "__main__":
    zoo, out, *files = sys.argv[1:]
    read = ZOOS[zoo]()
    np.savez(out, *(read(file) for file in files))
