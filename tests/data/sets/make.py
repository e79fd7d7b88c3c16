#!/usr/bin/env python3
"""Writes the small sets beside this file, and what is in them by the library that wrote them, in expected.json.

    python3 make.py        numpy 2.4, pyarrow 26, Pillow 13, fastparquet 2026.9 with cramjam 2.14
"""
import gzip
import io
import json
import pathlib
import struct
import tarfile
import zlib

import cramjam
import fastparquet
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

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


def said(images):
    """The bytes in hexadecimal, or of many the checksum."""
    images = np.asarray(images).astype(np.uint8).tobytes()
    return images.hex() if len(images) < 1024 else f"crc {zlib.crc32(images)}"


def expect(name, images, labels=None, **more):
    """The set `name` holds these [N, H, W, C] images, and labels from 0 on."""
    images = np.asarray(images)
    images = images.reshape(*images.shape, 1) if images.ndim == 3 else images
    labels = None if labels is None else [int(label) for label in np.ravel(labels)]
    expected[name] = {"shape": images.shape, "images": said(images), "labels": labels, **more}


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
    expect("keras.npz", x, y, test_images=said(tx), test_labels=ty.tolist())
    x, v = colour(6), colour(2)
    column = y.reshape(-1, 1).astype(np.uint8)
    np.savez_compressed(here / "medmnist.npz", train_images=x, train_labels=column, val_images=v, val_labels=column[:2],
                        test_images=v[:1], test_labels=column[:1])
    expect("medmnist.npz", x, y, test_images=said(v[:1]), test_labels=[1])
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
    expect("pair", g, labels, test_images=said(g[:1]), test_labels=[1])
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



NAMES = ["ant", "bee", "cow"]
LABELS = [1, 0, 2, 2, 0, 1]


def png(image):
    """The file of one image, [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(file):
    return np.asarray(Image.open(io.BytesIO(file)))


FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(files, labels=LABELS, image="image", label="label", names=NAMES, kind=pa.int64(), file=FILE):
    """A table as `datasets` writes it."""
    rows = [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)] if file == FILE else files
    columns, fields = [pa.array(rows, file)], [pa.field(image, file)]
    if labels is not None:
        columns.append(pa.array(labels, kind))
        fields.append(pa.field(label, kind))
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=metadata))


def expect_table(path, labels=LABELS, image="image", label="label", **more):
    """What pyarrow and Pillow read in the table at `path`; labels that are text are the places of these among the `classes`."""
    read = pq.read_table(here / path)
    files = [row["bytes"] if isinstance(row, dict) else row for row in read[image].to_pylist()]
    if labels is not None:
        own = read[label].to_pylist()
        labels = [more["classes"].index(word) for word in own] if isinstance(own[0], str) else labels
        assert isinstance(own[0], str) or own == labels
    expect(path, np.stack([decoded(file) for file in files]), labels, **more)


def encoded(label, image, **more):
    """Options of pyarrow: encodings of the columns."""
    return dict(use_dictionary=False, column_encoding={"label": label, "image.bytes": image, "image.path": "DELTA_BYTE_ARRAY"}, **more)


def frames(data, size=100):
    """LZ4 as Hadoop packs it: each frame has its length, then a block behind its own length."""
    parts = [data[at:at + size] for at in range(0, len(data), size)]
    blocks = [bytes(cramjam.lz4.compress_block(part, store_size=False)) for part in parts]
    return b"".join(struct.pack(">II", len(part), len(block)) + block for part, block in zip(parts, blocks))


def write_by_fastparquet(files):
    """Its LZ4 has the number of Hadoop's, without frames; with them pyarrow reads the same."""
    frame = pandas.DataFrame({"image": files, "label": LABELS})
    for name, pack in [("lz4_unframed", None), ("lz4_framed", frames)]:
        if pack:
            fastparquet.compression.compressions["LZ4"] = pack
        path = f"tables/{name}.parquet"
        fastparquet.write(str(here / path), frame, compression="LZ4", object_encoding={"image": "bytes"})
        codecs = {column.meta_data.codec for column in fastparquet.ParquetFile(str(here / path)).fmd.row_groups[0].columns}
        assert codecs == {5}, codecs
        expect_table(path, classes=["0", "1", "2"])


def write_tables():
    folder = here / "tables"
    folder.mkdir(exist_ok=True)
    greys, colours = grey(6, 5, 5), np.stack([grey(6, 5, 5)] * 3, -1)
    colours[..., 1] = 255 - colours[..., 1]
    files = [png(image) for image in greys]
    for name, content, options in [
        ("snappy", table(files), {}),
        ("plain", table(files), dict(compression="none", use_dictionary=False)),
        ("gzip", table(files), dict(compression="gzip")),
        ("zstd", table(files), dict(compression="zstd")),
        ("zstd_newer_pages", table(files), dict(compression="zstd", data_page_version="2.0")),
        ("newer_pages", table(files), dict(data_page_version="2.0")),
        ("newer_pages_plain", table(files), dict(data_page_version="2.0", compression="none", use_dictionary=False)),
        ("small_groups", table(files), dict(row_group_size=4)),
        ("small_pages", table(files), dict(data_page_size=64, write_batch_size=1, use_dictionary=False)),
        ("repeated_files", table([files[i % 2] for i in range(6)]), {}),
        ("colour", table([png(image) for image in colours]), {}),
        ("lz4", table(files), dict(compression="lz4")),
        ("lz4_newer_pages", table(files), dict(compression="lz4", data_page_version="2.0")),
        ("brotli", table(files), dict(compression="brotli")),
        ("brotli_newer_pages", table(files), dict(compression="brotli", data_page_version="2.0")),
        ("lengths", table(files), encoded("DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY")),
        ("prefixes", table(files, kind=pa.int32()), encoded("DELTA_BINARY_PACKED", "DELTA_BYTE_ARRAY")),
        ("prefixes_repeat", table([files[i % 2] for i in range(6)]), encoded("DELTA_BINARY_PACKED", "DELTA_BYTE_ARRAY")),
        ("split", table(files), encoded("BYTE_STREAM_SPLIT", "PLAIN")),
        ("split_int32", table(files, kind=pa.int32()), encoded("BYTE_STREAM_SPLIT", "PLAIN", compression="brotli")),
        ("int32", table(files, kind=pa.int32()), {}),
        ("uint8", table(files, kind=pa.uint8()), {}),
    ]:
        pq.write_table(content, folder / f"{name}.parquet", **options)
        expect_table(f"tables/{name}.parquet", classes=NAMES)
    expected["tables/colour.parquet"]["grey"] = said([np.asarray(Image.fromarray(image).convert("L")) for image in colours])
    pq.write_table(table(files, image="img", label="fine_label", names=None), folder / "img.parquet")
    expect_table("tables/img.parquet", image="img", label="fine_label", classes=["0", "1", "2"])
    pq.write_table(table(files, image="picture", file=pa.binary(), names=None), folder / "binary.parquet")
    expect_table("tables/binary.parquet", image="picture")
    required = pa.struct([pa.field("bytes", pa.binary(), nullable=False), pa.field("path", pa.string())])
    schema = pa.schema([pa.field("image", required, nullable=False), pa.field("label", pa.int64(), nullable=False)])
    rows = [{"image": {"bytes": file, "path": None}, "label": label} for file, label in zip(files, LABELS)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "required.parquet")
    expect_table("tables/required.parquet")
    pq.write_table(table(files, labels=[-1] * 6), folder / "untold.parquet")
    expect_table("tables/untold.parquet", labels=None)
    pq.write_table(table(files, labels=None), folder / "unlabelled.parquet")
    expect_table("tables/unlabelled.parquet", labels=None)
    words = ["bee", "10", "ant", "9", "10", "\u00e4nt"]
    order = ["9", "10", "ant", "bee", "\u00e4nt"]
    for name, kind, options in [
        ("words", pa.string(), {}),
        ("words_plain", pa.string(), dict(use_dictionary=False)),
        ("words_large", pa.large_string(), dict(data_page_version="2.0")),
        ("words_prefixes", pa.string(), encoded("DELTA_BYTE_ARRAY", "PLAIN")),
        ("words_lengths", pa.string(), encoded("DELTA_LENGTH_BYTE_ARRAY", "PLAIN")),
        ("words_categorical", pa.dictionary(pa.int8(), pa.string()), {}),
    ]:
        content = table(files, labels=pa.array(words).cast(kind), names=None, kind=kind)
        pq.write_table(content, folder / f"{name}.parquet", **options)
        expect_table(f"tables/{name}.parquet", classes=order)
    write_by_fastparquet(files)
    many = [png(grey(1, 5, 5)[0]) for _ in range(2)]
    rows = [many[i % 2] for i in range(3000)]
    pq.write_table(table(rows, labels=[i % 3 for i in range(3000)]), folder / "many.parquet", row_group_size=1000)
    numbers = [i * i * 7 % 65536 if i % 3 else i % 2 for i in range(700)]
    content = table([rows[0]] * 700, labels=numbers, names=None, kind=pa.int32())
    pq.write_table(content, folder / "many_deltas.parquet", compression="zstd", data_page_size=900, write_batch_size=50,
                   **encoded("DELTA_BINARY_PACKED", "DELTA_BYTE_ARRAY"))
    assert pq.read_table(folder / "many_deltas.parquet")["label"].to_pylist() == numbers
    parts = here / "word_parts"
    parts.mkdir(exist_ok=True)
    for part, own in [("train", slice(0, 6)), ("test", slice(2, 4))]:
        pq.write_table(table(files[own], labels=words[own], names=None, kind=pa.string()), parts / f"{part}.parquet")
    labels = [order.index(word) for word in words]
    expect("word_parts", greys, labels, test_images=said(greys[2:4]), test_labels=labels[2:4], classes=order)
    # As hubs lay a set out.
    hub = here / "hub"
    (hub / "data").mkdir(parents=True, exist_ok=True)
    (hub / "README.md").write_text("# A set\n")
    pq.write_table(table(files[:4], labels=LABELS[:4]), hub / "data/train-00000-of-00002.parquet")
    pq.write_table(table(files[4:], labels=LABELS[4:]), hub / "data/train-00001-of-00002.parquet")
    pq.write_table(table(files[:2], labels=LABELS[:2]), hub / "data/test-00000-of-00001.parquet")
    pq.write_table(table(files[:1], labels=LABELS[:1]), hub / "data/validation-00000-of-00001.parquet")
    expect("hub", greys, LABELS, test_images=said(greys[:2]), test_labels=LABELS[:2], classes=NAMES)
    # What is refused.
    refused = here / "refused"
    for name, content, options in [
        ("nested", pa.table({"images": pa.array([[{"bytes": f, "path": ""}] for f in files], pa.list_(FILE))}), {}),
        ("nested_label", table(files, labels=[[1]] * 6, kind=pa.list_(pa.int64())), {}),
        ("no_word", table(files, labels=["a", "b", "", "a", "b", "a"], kind=pa.string()), {}),
        ("long_word", table(files, labels=["a" * 256] * 6, kind=pa.string()), {}),
        ("null_word", table(files, labels=["a", "b", None, "a", "b", "a"], kind=pa.string()), {}),
        ("bytes_label", table(files, labels=list(b"abcdef"), kind=pa.uint8()).set_column(1, "label", pa.array([b"a"] * 6)), {}),
        ("float_label", table(files, labels=[0.5] * 6, kind=pa.float32()), {}),
        ("path_only", table([files[0]] + [None] * 5), {}),
        ("no_images", pa.table({"text": ["a"], "label": [1]}), {}),
        ("two_images", pa.table({"left": pa.array(files, pa.binary()), "right": pa.array(files, pa.binary())}), {}),
        ("some_labels", table(files, labels=[1, None, 2, 0, 1, 1]), {}),
        ("beyond_names", table(files, labels=[0, 1, 2, 3, 0, 0]), {}),
        ("no_rows", table([], labels=[]), {}),
    ]:
        pq.write_table(content, refused / f"{name}.parquet", **options)


def archive(path, entries, mode="w", form=tarfile.PAX_FORMAT):
    """A tar of (name, bytes or TarInfo)."""
    path.parent.mkdir(exist_ok=True)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for name, content in entries:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    bytes_ = raw.getvalue()
    path.write_bytes(gzip.compress(bytes_, mtime=0) if mode == "w:gz" else bytes_)


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


def write_archives():
    folder = here / "shards"
    greys = grey(6, 5, 5)
    files = [png(image) for image in greys]
    samples = [(f"{i:06}.png", file) for i, file in enumerate(files)]
    pair = lambda i, prefix="": [(f"{prefix}{i:06}.png", files[i]), (f"{prefix}{i:06}.cls", str(LABELS[i]).encode())]  # noqa: E731
    pairs = [entry for i in range(6) for entry in pair(i)]
    long = "a" * 90 + "/" + "b" * 60 + "/"
    folder_entry = tarfile.TarInfo("set")
    folder_entry.type = tarfile.DIRTYPE
    for name, entries, options in [
        ("pax.tar", pairs, {}),
        ("gnu.tar", pairs, dict(form=tarfile.GNU_FORMAT)),
        ("ustar.tar", pairs, dict(form=tarfile.USTAR_FORMAT)),
        ("packed.tar.gz", pairs, dict(mode="w:gz")),
        ("packed.tgz", pairs, dict(mode="w:gz")),
        ("long_pax.tar.gz", [e for i in range(6) for e in pair(i, long + "c" * 120)], dict(mode="w:gz")),
        ("long_gnu.tar.gz", [e for i in range(6) for e in pair(i, long + "c" * 120)], dict(mode="w:gz", form=tarfile.GNU_FORMAT)),
        ("long_ustar.tar.gz", [e for i in range(6) for e in pair(i, long)], dict(mode="w:gz", form=tarfile.USTAR_FORMAT)),
        ("folders.tar.gz", [("set", folder_entry)] + [e for i in range(6) for e in pair(i, "./set/")], dict(mode="w:gz")),
        ("label_first.tar.gz", [e for i in range(6) for e in pair(i)[::-1]], dict(mode="w:gz")),
        ("json.tar.gz", [e for i in range(6) for e in (pair(i)[0], (f"{i:06}.json", json.dumps({"label": LABELS[i]}).encode()))], dict(mode="w:gz")),
    ]:
        archive(folder / name, entries, **options)
        with tarfile.open(folder / name) as tar:
            names = [member.name for member in tar if member.name.endswith(".png")]
            read = [decoded(tar.extractfile(name).read()) for name in names]
            labels = [tar.extractfile(name[:-4] + ending).read() for name in names for ending in [".json" if "json" in path_name(tar) else ".cls"]]
        labels = [json.loads(label)["label"] if label.startswith(b"{") else int(label) for label in labels]
        expect(f"shards/{name}", np.stack(read), labels)
    archive(folder / "unlabelled.tar.gz", samples, mode="w:gz")
    expect("shards/unlabelled.tar.gz", greys)
    order = [("10", 2), ("9", 1), ("bee", 3), ("9/more", 1), ("10", 2), ("2", 0)]
    for name, prefix in [("classes", ""), ("classes_below", "./some/set/")]:
        entries = [(f"{prefix}{folder}/{i}.png", file) for i, ((folder, _), file) in enumerate(zip(order, files))]
        archive(folder / f"{name}.tar.gz", entries, mode="w:gz")
        expect(f"shards/{name}.tar.gz", greys, [label for _, label in order], classes=["2", "9", "10", "bee"])
    archive(folder / "one_folder.tar.gz", [(f"all/{i}.png", file) for i, file in enumerate(files)], mode="w:gz")
    expect("shards/one_folder.tar.gz", greys, [0] * 6, classes=["all"])
    names = ["test/bee", "train/cow", "val/ant", "train/10", "test/10", "train/bee"]
    archive(folder / "parts_of_classes.tar.gz", [(f"set/{place}/{i}.png", file) for i, (place, file) in enumerate(zip(names, files))], mode="w:gz")
    expect("shards/parts_of_classes.tar.gz", greys[[1, 3, 5]], [2, 0, 1], test_images=said(greys[[0, 4]]), test_labels=[1, 0],
           classes=["10", "bee", "cow"])
    archive(folder / "parts_of_labels.tar.gz", [e for i in range(6) for e in pair(i, "test/deep/" if i in (2, 5) else "train/")], mode="w:gz")
    kept = [0, 1, 3, 4]
    expect("shards/parts_of_labels.tar.gz", greys[kept], [LABELS[i] for i in kept], test_images=said(greys[[2, 5]]),
           test_labels=[LABELS[i] for i in (2, 5)])
    shards = here / "parts"
    archive(shards / "set-train-000000.tar", pairs[:8])
    archive(shards / "set-train-000001.tar", pairs[8:])
    archive(shards / "set-test-000000.tar", pairs[:4])
    expect("parts", greys, LABELS, test_images=said(greys[:2]), test_labels=LABELS[:2])
    # CIFAR's own archives, of few records.
    cifar = here / "cifar"
    x = (np.arange(7 * 3072, dtype=np.uint32).reshape(7, 3, 32, 32) // 5 % 256).astype(np.uint8)
    order = [3, 0, 4, 2, 1]
    record = lambda i, *labels: bytes(labels) + x[i].tobytes()  # noqa: E731
    words = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"
    ten = "cifar-10-batches-bin/"
    archive(cifar / "cifar-10-binary.tar.gz",
            [(f"{ten}data_batch_{i + 1}.bin", record(i, i + 2)) for i in order]
            + [(ten + "test_batch.bin", record(5, 9)), (ten + "batches.meta.txt", words), (ten + "readme.html", b"x")], mode="w:gz")
    nhwc = np.moveaxis(x, 1, -1)
    expect("cifar/cifar-10-binary.tar.gz", nhwc[:5], [2, 3, 4, 5, 6], test_images=said(nhwc[5:6]), test_labels=[9],
           classes=words.decode().split())
    hundred = "cifar-100-binary/"
    fine = "".join(f"fine{i}\n" for i in range(100))
    archive(cifar / "cifar-100-binary.tar.gz",
            [(hundred + "train.bin", record(0, 1, 99) + record(1, 1, 0)), (hundred + "test.bin", record(2, 1, 50)),
             (hundred + "fine_label_names.txt", fine.encode())], mode="w:gz")
    expect("cifar/cifar-100-binary.tar.gz", nhwc[:2], [99, 0], test_images=said(nhwc[2:3]), test_labels=[50],
           classes=fine.split())
    # What is refused.
    refused = here / "refused"
    for name, entries in [
        ("upward", [("../../000000.png", files[0])]),
        ("inner_upward", [("set/../../000000.png", files[0])]),
        ("absolute", [("/etc/000000.png", files[0])]),
        ("links", [link("000000.png", "/etc/passwd"), link("000001.png", "../x", tarfile.LNKTYPE)]),
        ("tests_alone", [("set/test/ant/0.png", files[0]), ("set/val/ant/0.png", files[1])]),
        ("beside_classes", [("set/ant/0.png", files[0]), ("set/1.png", files[1])]),
        ("classes_and_labels", [("ant/0.png", files[0]), ("ant/0.cls", b"0"), ("bee/1.png", files[1])]),
        ("text_class", [("0.png", files[0]), ("0.cls", b"ant")]),
        ("some_labels", [("0.png", files[0]), ("0.cls", b"1"), ("1.png", files[1])]),
        ("no_images", [("0.txt", b"words")]),
        ("python", [("cifar-10-batches-py/data_batch_1", b"x")]),
        ("broken", [("0.png", files[0][:40]), ("0.cls", b"1")]),
        ("large_label", [("0.png", files[0]), ("0.cls", b"70000")]),
    ]:
        archive(refused / f"{name}.tar.gz", entries, mode="w:gz")
    archive(here / "shards/with_link.tar.gz", [*pairs, link("000009.png", "/etc/passwd"), ("000002.txt", b"a caption")], mode="w:gz")


def path_name(tar):
    return pathlib.Path(tar.name).name


write_arrays()
write_tables()
write_archives()
lines = [f"{json.dumps(name)}: {json.dumps(content)}" for name, content in expected.items()]
(here / "expected.json").write_text("{" + ",\n ".join(lines) + "}\n")
