"""Save arrays with a framework's own writer: ``python -m tests.frameworks.save_arrays KIND ARRAYS.npz OUT``.

The classes of some zoos have fixed widths, and their files would be too large for this repository; the bytes are the framework's
all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def paddle_(arrays: dict[str, np.ndarray], out: Path) -> None:
    import paddle

    paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, str(out))


def tensorflow_(arrays: dict[str, np.ndarray], out: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=array) for name, array in arrays.items()]
        step = tf.compat.v1.train.get_or_create_global_step()
        session.run([v.initializer for v in (*variables, step)])
        tf.compat.v1.train.Saver().save(session, str(out), write_meta_graph=False, write_state=False)


def mindspore_(arrays: dict[str, np.ndarray], out: Path) -> None:
    import mindspore

    mindspore.save_checkpoint([{"name": name, "data": mindspore.Tensor(array)} for name, array in arrays.items()], str(out))


if __name__ == "__main__":
    kind, source, target = sys.argv[1:]
    with np.load(source) as stored:
        {"paddle": paddle_, "tensorflow": tensorflow_, "mindspore": mindspore_}[kind](dict(stored), Path(target))
