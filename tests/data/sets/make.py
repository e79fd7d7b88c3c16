#!/usr/bin/env python3
"""Writes the small sets beside this file, and what is in them by the library that wrote them, in expected.json.

    python3 make.py        numpy 2.4, pyarrow 26, Pillow 13
"""
import json
import pathlib
import pickle  # noqa: F401  (np.save pickles objects)

import numpy as np

here = pathlib.Path(__file__).parent
random = np.random.default_rng(7)
expected = {}


def grey(count, height=4, width=5):
    """Images [N, H, W] which reach 0 and 255."""
    images = random.integers(0, 256, (count, height, width), dtype=np.uint8)
    images.flat[0], images.flat[1] = 0, 255
    return images


def colour(count):
    return np.stack([grey(count), grey(count), grey(count)], -1)


def expect(name, images, labels=None, **more):
    """The set `name` holds these [N, H, W, C] images, and labels from 0 on."""
    images = np.asarray(images)
    images = images.reshape(*images.shape, 1) if images.ndim == 3 else images
    labels = None if labels is None else [int(label) for label in np.ravel(labels)]
    expected[name] = {"shape": images.shape, "images": images.astype(np.uint8).tobytes().hex(), "labels": labels, **more}


def arrays(name, images, labels=None, stored=None, save=np.savez_compressed, keys=("images", "labels"), **more):
    """An npz of `stored`, which is to be read as `images`."""
    own = {keys[0]: images if stored is None else stored}
    if labels is not None:
        own[keys[1]] = labels
    save(here / name, **own)
    expect(name, images, labels, **more)


def write_arrays():
    labels = np.array([1, 0, 2, 2, 0, 1])
    x, y, tx, ty = grey(6), labels, grey(2), labels[:2]
    np.savez(here / "keras.npz", x_train=x, y_train=y.astype(np.uint8), x_test=tx, y_test=ty.astype(np.uint8))
    expect("keras.npz", x, y, test_images=tx.tobytes().hex(), test_labels=ty.tolist())
    x, v = colour(6), colour(2)
    column = y.reshape(-1, 1).astype(np.uint8)
    np.savez_compressed(here / "medmnist.npz", train_images=x, train_labels=column, val_images=v, val_labels=column[:2],
                        test_images=v[:1], test_labels=column[:1])
    expect("medmnist.npz", x, y, test_images=v[:1].tobytes().hex(), test_labels=[1])
    arrays("nchw.npz", x, labels.astype(">i4"), stored=np.moveaxis(x, -1, 1).copy())
    arrays("fortran.npz", x, labels.astype("<i8"), stored=np.asfortranarray(x), keys=("X", "y"))
    arrays("fortran_nchw.npz", x, labels.astype("<u2"), stored=np.asfortranarray(np.moveaxis(x, -1, 1)), keys=("data", "target"))
    g = grey(6)
    arrays("unit.npz", g, labels.astype("<i2"), stored=(g / 255).astype("<f4"))
    arrays("signed_unit.npz", g, labels, stored=(g / 127.5 - 1).astype(">f8"))
    arrays("halves.npz", g, labels, stored=(g / 255).astype("<f2"))
    arrays("float_levels.npz", g, labels, stored=g.astype("<f4"))
    arrays("int64.npz", g, labels, stored=g.astype(">i8"), keys=("arr_0", "arr_1"))
    arrays("bool.npz", (g > 99) * 255, labels, stored=g > 99)
    arrays("grey_channel.npz", g, labels, stored=g[..., None])
    arrays("unlabelled.npz", g)
    pair = here / "pair"
    pair.mkdir(exist_ok=True)
    np.save(pair / "x_train.npy", g)
    np.save(pair / "y_train.npy", labels)
    np.save(pair / "x_test.npy", g[:1])
    np.save(pair / "y_test.npy", labels[:1])
    expect("pair", g, labels, test_images=g[:1].tobytes().hex(), test_labels=[1])
    with open(here / "version2.npy", "wb") as file:
        np.lib.format.write_array(file, g, version=(2, 0))
    expect("version2.npy", g)
    # What is refused.
    refused = here / "refused"
    refused.mkdir(exist_ok=True)
    one = np.zeros(6, np.uint8)
    for name, x, y in [
        ("pickled", np.array([{}] * 6, dtype=object), one),
        ("pickled_labels", g, np.array([None] * 6, dtype=object)),
        ("one_hot", g, np.eye(6, dtype=np.uint8)),
        ("float_labels", g, one.astype(float)),
        ("text_labels", g, np.array(list("abcdef"))),
        ("negative", g, one.astype(np.int8) - 1),
        ("flat", g.reshape(6, -1), one),
        ("four_channels", np.zeros((6, 4, 5, 4), np.uint8), one),
        ("either_order", np.zeros((6, 3, 5, 3), np.uint8), one),
        ("standardised", (g - g.mean()) / g.std(), one),
        ("dim_floats", g / 1000, one),
        ("nan", np.full((6, 4, 5), np.nan), one),
        ("wide", g.astype(np.int32) + 1, one),
        ("complex", g.astype(np.complex64), one),
        ("fields", np.zeros((6, 4, 5), [("r", "u1"), ("g", "u1")]), one),
        ("fewer_labels", g, one[:5]),
        ("empty", g[:0], one[:0]),
        ("one_image", x[0], one),
    ]:
        np.savez_compressed(refused / f"{name}.npz", images=x, labels=y)
    np.savez(refused / "no_images.npz", mean=one, labels=one)
    np.savez(refused / "two_images.npz", images=g, data=g)


write_arrays()
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
