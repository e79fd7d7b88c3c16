#!/usr/bin/env python3
"""Writes small sets with the libraries that people write theirs with, and what these read back, in libraries.json.

    python3 libraries.py        datasets 5.2, webdataset 1.0, medmnist 3.0, polars 2.1, Pillow 13
"""
import io
import json
import os
import pathlib
import tempfile
import zlib

os.environ["HF_DATASETS_OFFLINE"] = "1"
import datasets  # noqa: E402
import medmnist  # noqa: E402
import numpy as np  # noqa: E402
import polars  # noqa: E402
import webdataset  # noqa: E402
from PIL import Image  # noqa: E402

here = pathlib.Path(__file__).parent
place = here / "libraries"
expected = {}
LABELS = [1, 0, 2, 2, 0, 1, 1, 0, 2, 0]
NAMES = ["ant", "bee", "cow"]


def pictures(side, *channels):
    """Ten smooth images, which pack well."""
    y, x = np.mgrid[:side, :side]
    image = lambda i: np.stack([(x // 4 * 9 * (i + 3) + y // 4 * (c + 1) * 35 + 40 * i) % 256 for c in range(3)], -1).astype(np.uint8)  # noqa: E731
    images = np.stack([image(i) for i in range(10)])
    return images if channels else np.ascontiguousarray(images[..., 0])


def said(images):
    images = np.ascontiguousarray(images).tobytes()
    return images.hex() if len(images) < 1024 else f"crc {zlib.crc32(images)}"


def expect(name, images, labels, test=None, **more):
    images = np.stack([np.asarray(image) for image in images])
    images = images.reshape(*images.shape, 1) if images.ndim == 3 else images
    expected[name] = {"shape": images.shape, "images": said(images), "labels": [int(label) for label in np.ravel(labels)], **more}
    if test:
        images, labels = test
        expected[name] |= {"test_images": said(np.stack([np.asarray(image) for image in images])),
                           "test_labels": [int(label) for label in np.ravel(labels)]}


def png(image):
    raw = io.BytesIO()
    Image.fromarray(image).save(raw, "png")
    return raw.getvalue()


def of_datasets():
    """As `push_to_hub` lays a set out."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [Image.fromarray(image) for image in pictures(12, 3)], "label": LABELS}
    whole = datasets.Dataset.from_dict(rows, features=features)
    parts = {"train-00000-of-00002": range(4), "train-00001-of-00002": range(4, 8), "test-00000-of-00001": range(8, 10)}
    (place / "datasets/data").mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        whole.select(rows).to_parquet(str(place / f"datasets/data/{name}.parquet"))
    with tempfile.TemporaryDirectory() as cache:
        read = datasets.load_dataset(str(place / "datasets"), cache_dir=cache, keep_in_memory=True)
    train, test = read["train"], read["test"]
    expect("libraries/datasets", train["image"], train["label"], (test["image"], test["label"]), classes=train.features["label"].names)


def of_polars():
    files = [png(image) for image in pictures(12)]
    words = [NAMES[label] for label in LABELS]
    for name, labels, options in [("polars", LABELS, {}), ("polars_lz4", LABELS, {"compression": "lz4"}), ("polars_words", words, {"compression": "brotli"})]:
        path = f"libraries/{name}.parquet"
        polars.DataFrame({"image": files, "label": labels}).write_parquet(here / path, **options)
        read = polars.read_parquet(here / path)
        own = [NAMES.index(label) if labels is words else label for label in read["label"]]
        expect(path, [Image.open(io.BytesIO(file)) for file in read["image"]], own, **({"classes": NAMES} if labels is words else {}))


def of_webdataset():
    for name, image, label in [("plain", "png", "cls"), ("dotted", "input.png", "target.cls")]:
        path = str(place / f"webdataset_{name}.tar.gz")
        with webdataset.TarWriter(path, mtime=0) as writer:
            for i, (picture, own) in enumerate(zip(pictures(12, 3), LABELS)):
                writer.write({"__key__": f"sample{i:06}", image: picture, label: own})
        read = list(webdataset.WebDataset(path, shardshuffle=False).decode("rgb8").to_tuple(image, label))
        expect(f"libraries/webdataset_{name}.tar.gz", *zip(*read))


def of_medmnist():
    """Its own sets are arrays of these names and shapes."""
    for flag, reader, images in [("bloodmnist", medmnist.BloodMNIST, pictures(28, 3)), ("organamnist", medmnist.OrganAMNIST, pictures(28))]:
        labels = np.array(LABELS, np.uint8)[:, None]
        parts = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 10)}
        arrays = {f"{part}_images": images[own] for part, own in parts.items()} | {f"{part}_labels": labels[own] for part, own in parts.items()}
        np.savez_compressed(place / f"{flag}.npz", **arrays)
        train, test = (reader(split=split, root=str(place), download=False) for split in ["train", "test"])
        expect(f"libraries/{flag}.npz", train.imgs, train.labels, (test.imgs, test.labels))


place.mkdir(exist_ok=True)
of_datasets()
of_polars()
of_webdataset()
of_medmnist()
lines = [f"{json.dumps(name)}: {json.dumps(content)}" for name, content in expected.items()]
(here / "libraries.json").write_text("{" + ",\n ".join(lines) + "}\n")
