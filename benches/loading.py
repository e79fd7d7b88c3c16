#!/usr/bin/env python3
"""Loading data sets: `diffuse data` beside torchvision, Hugging Face's datasets and NumPy, until all images are one uint8 array.

  python3 benches/loading.py --mnist DIR --cifar DIR [--forms idx,npz,parquet,tar,folder,jpegs] [--rounds 5]
                             [--diffuse target/release/diffuse] [--keep DIR] [--out TABLE.md]

--mnist has MNIST's IDX files (gzipped or not), --cifar folders of JPEGs. The forms are made of them in a temporary directory (or in
--keep, where they stay): MNIST's 60,000 images as IDX files, npz, parquet, tar and folders of PNGs, and 50,000 JPEGs in folders.

Each round runs everybody once, one after the other. Of diffuse it is the whole process that counts, from start to exit, the picture of
some images included; of the others the time from the path to the array, without the start of Python and its imports, which are told
apart. What they keep between runs (the tables of `datasets`) is there before the first round; who then takes ten times as long as the
fastest of them is not asked again. Memory is the most that was resident,
less what `diffuse --version` or the imports take. Needs numpy, pillow, torch, torchvision and datasets; on Linux.
"""
import argparse
import gzip
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

CORES = len(os.sched_getaffinity(0))
COUNT, JPEGS = 60_000, 50_000
# What reads each form: the flags of diffuse, and the others.
FORMS = {
    "idx": ("mnist", ["torchvision.MNIST"]),
    "npz": ("mnist", ["numpy.load"]),
    "parquet": ("mnist", ["datasets", "datasets+workers"]),
    "tar": ("mnist", ["datasets", "datasets+workers"]),
    "folder": ("mnist", ["torchvision.ImageFolder", "torchvision.ImageFolder+workers", "datasets", "datasets+workers"]),
    "jpegs": ("cifar10", ["torchvision.ImageFolder", "torchvision.ImageFolder+workers", "datasets", "datasets+workers"]),
}


def peak():
    """The most bytes of this process that were resident."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# The forms.

def idx(path):
    raw = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
    return raw


def make(form, place, options):
    """Writes the form, if it isn't there."""
    import numpy as np
    from PIL import Image

    done = place / f"{form}.done"
    if done.exists():
        return
    if form == "jpegs":
        source = sorted(pathlib.Path(options.cifar).glob("*/*.jpg"))
        for number in range(JPEGS):
            path = source[number % len(source)]
            folder = place / form / path.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:05}.jpg").write_bytes(path.read_bytes())
        return done.touch()
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    files = [idx(pathlib.Path(options.mnist) / name) for name in names]
    images = np.frombuffer(files[0], np.uint8, offset=16).reshape(COUNT, 28, 28)
    labels = np.frombuffer(files[1], np.uint8, offset=8)
    if form == "idx":
        # torchvision looks for the test set, too; diffuse would read it.
        for folder, count in [("idx", 2), ("torchvision/MNIST/raw", 4)]:
            (place / folder).mkdir(parents=True, exist_ok=True)
            for name, content in zip(names[:count], files):
                (place / folder / name).write_bytes(content)
    elif form == "npz":
        np.savez_compressed(place / "npz.npz", x_train=images, y_train=labels)
    else:
        write_files(form, place, [png(Image.fromarray(image)) for image in images], labels)
    done.touch()


def png(image):
    raw = io.BytesIO()
    image.save(raw, "png")
    return raw.getvalue()


def write_files(form, place, files, labels):
    if form == "folder":
        for number, (content, label) in enumerate(zip(files, labels)):
            folder = place / form / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:05}.png").write_bytes(content)
    elif form == "tar":
        with tarfile.open(place / "tar.tar", "w") as tar:
            for number, (content, label) in enumerate(zip(files, labels)):
                for ending, content in [("png", content), ("cls", str(label).encode())]:
                    info = tarfile.TarInfo(f"{number:06}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    else:
        import datasets

        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
        rows = {"image": [{"bytes": content, "path": None} for content in files], "label": [int(label) for label in labels]}
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(str(place / "parquet.parquet"))


def path_of(form, place):
    ending = {"npz": ".npz", "parquet": ".parquet", "tar": ".tar"}.get(form, "")
    return place / f"{form}{ending}"


# The others. Each imports what it needs, then reads.

def peer(name, form, place):
    """Reads the form as `name` does, and prints what that took."""
    start = time.perf_counter()
    read = globals()["read_" + name.split("+")[0].replace(".", "_").lower()](form, place, name.endswith("+workers"))
    imported, before = time.perf_counter() - start, peak()
    start = time.perf_counter()
    array = read()
    seconds = time.perf_counter() - start
    shape = [JPEGS, 32, 32, 3] if form == "jpegs" else [COUNT, 28, 28]
    assert str(array.dtype) == "uint8" and list(array.shape) == shape, (array.dtype, array.shape)
    beyond = peak() - before
    print(json.dumps({"seconds": seconds, "imports": imported, "peak": beyond, "sum": int(array.sum(dtype="int64"))}))


def read_numpy_load(form, place, workers):
    import numpy as np

    def read():
        with np.load(path_of(form, place)) as arrays:
            arrays["y_train"]
            return arrays["x_train"]

    return read


def read_torchvision_mnist(form, place, workers):
    import torchvision.datasets

    return lambda: torchvision.datasets.MNIST(place / "torchvision", train=True).data.numpy()


def collect(data, count, workers):
    """The images of a data set of arrays as one: by itself, or by the loader that torch has for that."""
    import numpy as np
    import torch.utils.data

    if not workers:
        array = None
        for at, image in enumerate(data):
            array = np.empty((count, *image.shape), np.uint8) if array is None else array
            array[at] = image
        return array
    array, at = None, 0
    for batch in torch.utils.data.DataLoader(data, batch_size=512, num_workers=CORES, collate_fn=stacked):
        array = np.empty((count, *batch.shape[1:]), np.uint8) if array is None else array
        array[at : at + len(batch)] = batch
        at += len(batch)
    return array


def stacked(images):
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(images))


class Images:
    """Images alone, without their labels."""

    def __init__(self, data, of):
        self.data, self.of = data, of

    def __len__(self):
        return len(self.data)

    def __getitem__(self, at):
        if at >= len(self.data):
            raise IndexError
        return self.of(self.data[at])


def open_array(path):
    """As the file is, without the detour over RGB that the usual loader takes."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def first(pair):
    return pair[0]


def array_of_row(row):
    import numpy as np

    return np.asarray(row["image"])


def read_torchvision_imagefolder(form, place, workers):
    import torch.utils.data
    import torchvision.datasets

    def read():
        data = torchvision.datasets.ImageFolder(path_of(form, place), loader=open_array)
        return collect(Images(data, first), len(data), workers)

    return read


def read_datasets(form, place, workers):
    os.environ.update(HF_HOME=str(place / "hf"), HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1")
    import datasets
    import torch.utils.data

    datasets.disable_progress_bars()
    builder = {"parquet": "parquet", "tar": "webdataset"}.get(form, "imagefolder")
    column = "png" if form == "tar" else "image"
    path = str(path_of(form, place))
    # The whole row is read by its index as by iteration; of several ways that one was fastest.
    where = {"data_dir": path} if builder == "imagefolder" else {"data_files": {"train": path}}

    def read():
        data = datasets.load_dataset(builder, split="train", **where).select_columns([column])
        if column != "image":
            data = data.rename_column(column, "image")
        if workers:
            return collect(Images(data, array_of_row), len(data), workers)
        return collect(map(array_of_row, data), len(data), workers)

    return read


# The rounds.

def measure(command, environment=None):
    """What a process printed, the seconds from its start to its end, and the most bytes that it had in memory."""
    with tempfile.NamedTemporaryFile("r") as said:
        start = time.perf_counter()
        run = subprocess.run(["time", "-f", "%M", "-o", said.name, *command], env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if run.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}: {run.stderr}")
        return run.stdout, seconds, int(said.read().split()[-1]) * 1024


def own(form, place, options, base, cache):
    """diffuse on the form; what it keeps of folders lies in `cache`."""
    environment = {**os.environ, "DIFFUSE_CACHE_DIR": str(cache)}
    flags = ["--preset", FORMS[form][0], "--count", "1", "--out", str(place / "sheet.png")]
    _, seconds, most = measure([options.diffuse, "data", str(path_of(form, place)), *flags], environment)
    return {"seconds": seconds, "peak": most - base}


def another(name, form, place):
    said, _, _ = measure([sys.executable, __file__, "--peer", name, "--keep", str(place), "--forms", form])
    return json.loads(said.splitlines()[-1])


def rounds(form, place, options):
    """The records of everybody on one form, by name."""
    make(form, place, options)
    base = min(measure([options.diffuse, "--version"])[2] for _ in range(3))
    is_folder, records = form in ("folder", "jpegs"), {}
    once = {name: another(name, form, place) for name in FORMS[form][1]}
    fastest = min(run["seconds"] for run in once.values())
    patient = [name for name in once if once[name]["seconds"] < 10 * fastest]
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=place) as cache:
            runs = {"diffuse": own(form, place, options, base, cache)}
            if is_folder:
                runs["diffuse, kept"] = own(form, place, options, base, cache)
        runs |= {name: another(name, form, place) for name in patient}
        for name, run in runs.items():
            records.setdefault(name, []).append(run)
        print(f"{form}, round {number + 1}: " + ", ".join(f"{name} {run['seconds']:.3f} s" for name, run in runs.items()), file=sys.stderr)
    return records | {name: [run] for name, run in once.items() if name not in patient}


def row(form, records):
    size = JPEGS * 3072 if form == "jpegs" else COUNT * 784
    median = lambda name, key: statistics.median(run[key] for run in records[name])  # noqa: E731
    fastest = min((name for name in records if not name.startswith("diffuse")), key=lambda name: median(name, "seconds"))
    lines = []
    for name, runs in records.items():
        ratio = ""
        if name.startswith("diffuse"):
            pairs = [other["seconds"] / run["seconds"] for other, run in zip(records[fastest], runs)]
            ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        seconds = [run["seconds"] for run in runs]
        most = median(name, "peak")
        memory = "" if name.endswith("workers") else f"{most / 2**20:.0f} MiB, {most / size:.2f}"
        imports = f"{median(name, 'imports'):.1f}" if "imports" in runs[0] else ""
        spread = f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        lines.append(f"| {form} | {name} | {spread} | {ratio} | {memory} | {imports} |")
    return lines


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions():
    from importlib.metadata import version

    names = ["torch", "torchvision", "datasets", "pyarrow", "pillow", "numpy"]
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist")
    parser.add_argument("--cifar")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--diffuse", default="target/release/diffuse")
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer, options.forms, options.keep)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.keep or pathlib.Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        lines = [line for form in options.forms.split(",") for line in row(form, rounds(form, place, options))]
    print_table(lines, options)


def print_table(lines, options):
    own = subprocess.run([options.diffuse, "--version"], capture_output=True, text=True).stdout.strip()
    head = f"""{processor()}, {CORES} cores, {platform.system()}; {own}; {versions()}; medians of {options.rounds} paired rounds.

| form | read by | seconds | fastest of the others / this | memory, times the images | imports, s |
|---|---|---|---|---|---|"""
    table = "\n".join([head, *lines])
    print(table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
