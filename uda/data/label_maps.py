"""Label maps of a whole data set, kept small, and seen through the windows of training crops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from uda.functional.windows import cut_window
from uda.types import IGNORE

if TYPE_CHECKING:
    from uda.types import UnlabelledDataset, View


def whole_images(
    dataset: UnlabelledDataset, device: torch.device | str, indices: Iterable[int] | None = None
) -> Iterator[Tensor]:
    """The images of a data set one by one, not augmented.

    Args:
        dataset: images of any sizes.
        device: where they go.
        indices: which; by default all, in order.

    Yields:
        ``(1, 3, H, W)`` float32 in [0, 1].
    """
    for index in range(len(dataset)) if indices is None else indices:
        yield dataset[index].as_float().to(device)[None]


class LabelMaps(nn.Module):
    """A map of each image of a data set, by the image's index there.

    Maps are ``(K, H, W)`` uint8 of any sizes, kept as PNG in main memory. They are the module's state, so that a killed
    run goes on with the maps that it had.

    Args:
        planes: K; 1 for labels, the number of classes for shares of each class.
        outside: value where a window reaches outside of its image.
    """

    def __init__(self, planes: int = 1, outside: int = IGNORE) -> None:
        super().__init__()
        self.planes, self.outside = planes, outside
        self._packed: list[Tensor] = []

    def __len__(self) -> int:
        """How many images have a map; 0 before :meth:`fill`."""
        return len(self._packed)

    def fill(self, maps: Iterable[Tensor]) -> None:
        """Keep these ``(K, H, W)`` uint8 maps, of the data set's images in order, instead of those there were."""
        self._packed = [_pack(whole) for whole in maps]

    def whole(self, index: int) -> Tensor:
        """The map ``(K, H, W)`` uint8 of an image, on the CPU.

        Raises:
            RuntimeError: its bytes are no PNG.
        """
        from uda.opencv import cv2  # not before it is needed: importing a method brings no OpenCV

        decoded = cv2.imdecode(self._packed[index].numpy(), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise RuntimeError(f"the stored label map of image {index} is damaged")
        return torch.from_numpy(decoded).view(self.planes, -1, decoded.shape[1])

    def crops(self, view: View) -> Tensor:
        """The maps as a view of the data set shows them, nearest: as :class:`~uda.data.TrainTransform` cuts labels.

        Returns:
            ``(N, K, h, w)`` uint8 on the images' device.

        Raises:
            ValueError: the view does not say which windows of which images it shows, or of an image without map.
        """
        if len(view.windows) != len(view.images):
            raise ValueError(
                f"labels are stored for whole images, and this view says for {len(view.windows)} of its "
                f"{len(view.images)} images which window of which image they show; give View(..., windows=...), as "
                "uda.data.Pairs does with TrainTransform or any transform that returns its window"
            )
        unknown = [window.sample for window in view.windows if not 0 <= window.sample < len(self)]
        if unknown:
            raise ValueError(f"a window is of image {unknown[0]}, and labels are stored for {len(self)} images")
        size = view.images.shape[-2:]
        cut = [cut_window(self.whole(window.sample), window, size, outside=self.outside) for window in view.windows]
        return torch.stack(cut).to(view.images.device)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}packed"] = torch.cat([torch.zeros(0, dtype=torch.uint8), *self._packed])
        destination[f"{prefix}bytes"] = torch.tensor([len(packed) for packed in self._packed], dtype=torch.int64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        missing_keys: list[str] = args[2]
        absent = [key for key in (f"{prefix}packed", f"{prefix}bytes") if key not in state_dict]
        missing_keys += absent
        if not absent:
            packed, lengths = state_dict[f"{prefix}packed"].cpu(), state_dict[f"{prefix}bytes"].tolist()
            self._packed = [part.clone() for part in packed.split(lengths)] if lengths else []


def _pack(whole: Tensor) -> Tensor:
    """PNG bytes ``(n,)`` uint8 of a map, its planes below each other."""
    from uda.opencv import cv2

    stacked = whole.detach().cpu().numpy().reshape(-1, whole.shape[-1])
    written, encoded = cv2.imencode(".png", np.ascontiguousarray(stacked))
    if not written:
        raise RuntimeError(f"a label map of size {tuple(whole.shape)} cannot be written as PNG")
    return torch.from_numpy(encoded.ravel())
