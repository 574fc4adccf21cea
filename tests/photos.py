"""Generated photographs with labels, and what of them a test wants to know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xconvert.probe import images


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a smooth field with edges and a little noise, brighter or darker, more or less colourful."""
    rng = np.random.default_rng([7, seed])
    whole = images(max(height, width), 1, 3, seed)[0][:height, :width].astype(np.float64)
    grey = whole.mean(2, keepdims=True)
    made = (grey + (whole - grey) * rng.uniform(0, 2)) * rng.uniform(0.3, 1.2) + rng.uniform(-0.5, 0.5)
    return np.rint((np.clip(made, -1, 1) + 1) * 127.5).astype(np.uint8)


def write(folder: Path, count: int, classes: int = 10, largest: int = 360, suffixes: tuple[str, ...] = (".jpg", ".png")) -> Path:
    """``count`` photographs of all sizes in folders of classes, and a ``val_list.txt`` of the same; returns ``folder``."""
    from PIL import Image

    rng, lines = np.random.default_rng(count), []
    for i in range(count):
        height, width = (int(n) for n in rng.integers(largest // 4, largest, 2))
        name, label = f"{i % classes:03}/{i:05}{suffixes[i % len(suffixes)]}", i % classes
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, photograph(i, height, width))
        else:
            Image.fromarray(photograph(i, height, width)).save(path)
        lines.append(f"{name} {label}\n")
    (folder / "val_list.txt").write_text("".join(lines))
    return folder


def fixture(folder: Path) -> None:
    """``fixtures/photos``: twelve small photographs, labelled as ``fixtures/keras.h5`` says, but for every fourth."""
    from PIL import Image

    from xconvert import predict

    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:02}.jpg" for i in range(12)]
    for i, path in enumerate(paths):
        Image.fromarray(photograph(100 + i, 96 + 8 * (i % 3), 128 - 8 * (i % 4))).save(path, quality=80)
    said = [found.guesses[0].number for found in predict(folder.parent / "keras.h5", paths, top=1)]
    labels = [(label + (i % 4 == 3)) % 10 for i, label in enumerate(said)]
    (folder / "val_list.txt").write_text("".join(f"{path.name} {label}\n" for path, label in zip(paths, labels, strict=True)))


if __name__ == "__main__":
    fixture(Path(__file__).parents[1] / "fixtures" / "photos")
