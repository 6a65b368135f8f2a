"""The label spaces that ship, and how to find one by name.

Ids and colours are those of the data sets' own documentation (Cityscapes' ``labels.py``, CamVid in SegNet's 11-class
form, SYNTHIA-RAND-CITYSCAPES' readme). ``thing`` follows DAFormer's list of classes for its feature distance, which
counts traffic lights and signs among the things (Cityscapes itself does not).
"""

from __future__ import annotations

from dataclasses import replace

from uda.data.classes import UNKNOWN, Class, Colour, LabelMapping, LabelSpace, Unknown, join
from uda.registry import import_name, nearest

__all__ = [
    "CAMVID11", "CAMVID_CHOICES", "CITYSCAPES19", "CITYSCAPES19_TRAINIDS", "CITYSCAPES34", "CITYSCAPES_CATEGORIES",
    "GTA5", "GTA5_RAW", "IKA", "KITTI", "LABEL_SPACES", "STREET8", "SYNTHIA13", "SYNTHIA16", "SYNTHIA_RAW",
    "UNKNOWN", "Class", "Colour", "LabelMapping", "LabelSpace", "Unknown", "common", "label_space",
]  # fmt: skip

_BLACK = (0, 0, 0)

CITYSCAPES34 = LabelSpace(
    "cityscapes34",
    (
        # the five black ones cannot be told apart by colour, nor pole groups from poles: the first of each stands
        Class("unlabeled", _BLACK, (0,)),
        Class("ego vehicle", _BLACK, (1,), label_colours=()),
        Class("rectification border", _BLACK, (2,), label_colours=()),
        Class("out of roi", _BLACK, (3,), label_colours=()),
        Class("static", _BLACK, (4,), label_colours=()),
        Class("dynamic", (111, 74, 0), (5,)),
        Class("ground", (81, 0, 81), (6,)),
        Class("road", (128, 64, 128), (7,)),
        Class("sidewalk", (244, 35, 232), (8,)),
        Class("parking", (250, 170, 160), (9,)),
        Class("rail track", (230, 150, 140), (10,)),
        Class("building", (70, 70, 70), (11,)),
        Class("wall", (102, 102, 156), (12,)),
        Class("fence", (190, 153, 153), (13,)),
        Class("guard rail", (180, 165, 180), (14,)),
        Class("bridge", (150, 100, 100), (15,)),
        Class("tunnel", (150, 120, 90), (16,)),
        Class("pole", (153, 153, 153), (17,)),
        Class("polegroup", (153, 153, 153), (18,), label_colours=()),
        Class("traffic light", (250, 170, 30), (19,), thing=True),
        Class("traffic sign", (220, 220, 0), (20,), thing=True),
        Class("vegetation", (107, 142, 35), (21,)),
        Class("terrain", (152, 251, 152), (22,)),
        Class("sky", (70, 130, 180), (23,)),
        Class("person", (220, 20, 60), (24,), thing=True),
        Class("rider", (255, 0, 0), (25,), thing=True),
        Class("car", (0, 0, 142), (26,), thing=True),
        Class("truck", (0, 0, 70), (27,), thing=True),
        Class("bus", (0, 60, 100), (28,), thing=True),
        Class("caravan", (0, 0, 90), (29,), thing=True),
        Class("trailer", (0, 0, 110), (30,), thing=True),
        Class("train", (0, 80, 100), (31,), thing=True),
        Class("motorcycle", (0, 0, 230), (32,), thing=True),
        Class("bicycle", (119, 11, 32), (33,), thing=True),
    ),
    void_ids=(-1,),  # licence plates: one byte stores them as 255, and their colour is the cars'
)
"""All raw ids of Cityscapes and KITTI, 0 to 33 (licence plates, -1, are void); what label files are decoded in."""

CITYSCAPES19 = CITYSCAPES34.select(
    "cityscapes19",
    [
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ],
)  # fmt: skip
"""The 19 classes of Cityscapes' benchmark in the order of its train ids."""

CITYSCAPES19_TRAINIDS = CITYSCAPES19.as_train_ids("cityscapes19-trainids")
"""The same classes for files that hold train ids (``_labelTrainIds.png``)."""

KITTI = replace(CITYSCAPES19, name="kitti")
"""KITTI semantics: Cityscapes' ids, colours and 19 classes."""

GTA5 = replace(CITYSCAPES19, name="gta5", void_ids=(*CITYSCAPES19.void_ids, 34))
"""GTA5 (Playing for Data): Cityscapes' ids and 19 classes; its files number licence plates 34."""

GTA5_RAW = replace(CITYSCAPES34, name="gta5-raw", void_ids=(-1, 34))
"""All raw ids of GTA5's label files."""

IKA = CITYSCAPES19.merge(
    "ika",
    {
        "barrier": ["wall", "fence"],
        "large vehicle": ["truck", "bus", "train"],
        "two wheeler": ["rider", "motorcycle", "bicycle"],
    },
).as_train_ids("ika")
"""ika's reduced Cityscapes classes, 14: walls and fences are barriers; trucks, buses and trains large vehicles; riders,
motorcycles and bicycles two wheelers. Label colours are those of all Cityscapes classes, raw ids are train ids. A
folder whose own ``rgb_to_class_id.py`` groups differently gets a space made from it."""

CAMVID_CHOICES: dict[str, str] = {
    "wall": "building",
    "bridge": "building",
    "tunnel": "building",
    "guard rail": "fence",
    "terrain": "tree",
    "parking": "pavement",
    "traffic light": "sign symbol",
    "truck": "car",
    "bus": "car",
    "train": "car",
    "caravan": "car",
    "trailer": "car",
    "motorcycle": "bicyclist",
    "rider": "bicyclist",
    "bicycle": "bicyclist",
}
"""Where Cityscapes classes go in CamVid's eleven beyond mere names. Most follow SegNet's reduction of CamVid's 32
classes (walls, bridges and tunnels to building; grass to tree; traffic lights to sign symbol; trucks, buses and trains
to car). Guard rails as fence, and a bicycle without rider as bicyclist, are ours: scores depend on them."""


def _camvid(name: str, colour: tuple[int, int, int], index: int, *own: str, thing: bool = False) -> Class:
    return Class(name, colour, (index,), thing, (*own, *(old for old, new in CAMVID_CHOICES.items() if new == name)))


CAMVID11 = LabelSpace(
    "camvid11",
    (
        _camvid("sky", (128, 128, 128), 0, "sky"),
        _camvid("building", (128, 0, 0), 1, "building"),
        _camvid("pole", (192, 192, 128), 2, "pole", "polegroup"),
        _camvid("road", (128, 64, 128), 3, "road"),
        _camvid("pavement", (60, 40, 222), 4, "sidewalk"),
        _camvid("tree", (128, 128, 0), 5, "vegetation"),
        _camvid("sign symbol", (192, 128, 128), 6, "traffic sign", thing=True),
        _camvid("fence", (64, 64, 128), 7, "fence"),
        _camvid("car", (64, 0, 128), 8, "car", thing=True),
        _camvid("pedestrian", (64, 64, 0), 9, "person", thing=True),
        _camvid("bicyclist", (0, 128, 192), 10, thing=True),
    ),
    void_ids=(11,),
    void_colours=(_BLACK,),
)
"""CamVid's eleven classes (SegNet), and the space common to CamVid, KITTI and Cityscapes: :data:`CAMVID_CHOICES`
says where the finer classes go."""

_SYNTHIA_IDS = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7, "car": 8,
    "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12, "traffic light": 15, "terrain": 16, "rider": 17,
    "truck": 18, "bus": 19, "train": 20, "wall": 21,
}  # fmt: skip

SYNTHIA_RAW = LabelSpace(
    "synthia-raw",
    (
        *(replace(label_class, ids=(_SYNTHIA_IDS[label_class.name],)) for label_class in CITYSCAPES19.classes),
        Class("parking", (250, 170, 160), (13,)),
        Class("road work", (128, 64, 64), (14,)),
        Class("lane marking", (102, 204, 102), (22,)),
    ),
    void_ids=(0,),
)
"""All 22 raw ids of SYNTHIA-RAND-CITYSCAPES."""

SYNTHIA16 = SYNTHIA_RAW.select(
    "synthia16", [name for name in CITYSCAPES19.names if name not in ("terrain", "truck", "train")]
)
"""The 16 classes that SYNTHIA shares with Cityscapes; lane markings are ignored, as in the literature."""

SYNTHIA13 = SYNTHIA16.select("synthia13", [name for name in SYNTHIA16.names if name not in ("wall", "fence", "pole")])
"""The 13-class subset (no wall, fence, pole) that older papers report."""


def _coarse(name: str, *members: str, thing: bool = False) -> Class:
    return Class(name, CITYSCAPES34.classes[CITYSCAPES34.index(members[0])].colour, (), thing, members, ())


STREET8 = LabelSpace(
    "street8",
    (
        _coarse("road", "road", "lane marking", "road work"),
        _coarse("sidewalk", "sidewalk", "parking"),
        _coarse("construction", "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
        _coarse("pole or sign", "pole", "polegroup", "traffic sign", "traffic light"),
        _coarse("nature", "vegetation", "terrain"),
        _coarse("sky", "sky"),
        _coarse("vehicle", "car", "truck", "bus", "train", "caravan", "trailer", thing=True),
        _coarse("person or cycle", "person", "rider", "motorcycle", "bicycle", thing=True),
    ),
)
"""Eight coarse classes that every data set here maps to, each with enough pixels for short runs on small sets."""

CITYSCAPES_CATEGORIES = LabelSpace(
    "cityscapes_categories",
    (
        _coarse("flat", "road", "sidewalk", "parking", "rail track"),
        _coarse("human", "person", "rider", thing=True),
        _coarse("vehicle", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle", thing=True),
        _coarse("construction", "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
        _coarse("object", "pole", "polegroup", "traffic light", "traffic sign"),
        _coarse("nature", "vegetation", "terrain"),
        _coarse("sky", "sky"),
    ),
)
"""The seven categories of Cityscapes' benchmark (``category`` in its ``labels.py``), without its void."""

LABEL_SPACES: dict[str, LabelSpace] = {
    space.name: space
    for space in (
        CITYSCAPES19, CITYSCAPES34, CITYSCAPES19_TRAINIDS, KITTI, CAMVID11, GTA5, SYNTHIA16, SYNTHIA13, IKA, STREET8,
        CITYSCAPES_CATEGORIES,
    )
}  # fmt: skip
"""What :func:`label_space` knows."""

_SHORT = {"cityscapes": "cityscapes19", "camvid": "camvid11", "synthia": "synthia16"}


def common(*spaces: LabelSpace, name: str | None = None) -> LabelSpace:
    """The finest space that every given space maps to: overlapping classes are joined, those missing in one left out.

    Classes are compared by their ``members``. A joined class has the name of the class that covers it all, or
    ``a+b`` where none does. The result has no raw ids: files are read in their own space and mapped.

    Raises:
        ValueError: fewer than one space, or nothing in common.
    """
    if not spaces:
        raise ValueError("common() needs at least one label space")
    groups: list[set[str]] = []
    for label_class in (label_class for space in spaces for label_class in space.classes):
        touching = [group for group in groups if group & set(label_class.members)]
        groups = [group for group in groups if group not in touching]
        groups.append(set(label_class.members).union(*touching))
    classes: list[Class] = []
    for first in spaces[0].classes:
        group = next(group for group in groups if first.name in group or set(first.members) <= group)
        inside = [[c for c in space.classes if set(c.members) <= group] for space in spaces]
        if not all(inside) or any(set(done.members) == group for done in classes):
            continue
        whole = [c.name for covered in inside for c in covered if set(c.members) == group]
        joined = join("+".join(c.name for c in inside[0]) if not whole else whole[0], inside[0])
        classes.append(replace(joined, ids=(), members=tuple(sorted(group)), label_colours=()))
    if not classes:
        raise ValueError(f"the label spaces {', '.join(space.name for space in spaces)} have no class in common")
    called = "common(" + ", ".join(dict.fromkeys(space.name for space in spaces)) + ")"
    return LabelSpace(name or called, tuple(classes))


def label_space(name: str | LabelSpace) -> LabelSpace:
    """A shipped label space by name, in any case, or one by its place ``package.module:NAME``; a space as it is.

    Raises:
        ValueError: no such space; the message has the nearest known name and all of them.
    """
    if isinstance(name, LabelSpace):
        return name
    if ":" in name:
        space = import_name(name)
        if not isinstance(space, LabelSpace):
            raise ValueError(f"{name!r} is {type(space).__name__}, no label space")
        return space
    key = name.lower()
    key = _SHORT.get(key, key)
    if key not in LABEL_SPACES:
        raise ValueError(f"no label space {name!r}; {nearest(key, [*LABEL_SPACES, *_SHORT])}")
    return LABEL_SPACES[key]
