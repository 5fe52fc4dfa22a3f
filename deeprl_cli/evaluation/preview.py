"""A film as a small animated picture, for TensorBoard, which shows pictures and no films."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

FRAMES = 96  # pictures at most
WIDTH = 240  # of a picture at most
Frame = npt.NDArray[np.uint8]


class Preview:
    """Takes every frame of a film `(height, width, 3)` as it comes, and holds a few of them, evenly spaced."""

    def __init__(self) -> None:
        self.fps = 0.0
        self._kept: list[Frame] = []
        self._every, self._count = 1, 0

    def __call__(self, frame: Frame, fps: float) -> None:
        self.fps = fps
        if self._count % self._every == 0:
            if len(self._kept) == FRAMES:  # half of them stand for all from now on
                self._kept, self._every = self._kept[::2], 2 * self._every
            if self._count % self._every == 0:
                step = -(-frame.shape[1] // WIDTH)
                self._kept.append(frame[::step, ::step].copy())
        self._count += 1

    def gif(self) -> tuple[bytes, int, int]:
        """The GIF, its height and width; at least one frame must have come."""
        from PIL import Image

        pictures = [Image.fromarray(frame) for frame in self._kept]
        text, milliseconds = io.BytesIO(), max(20, round(1000 * self._every / self.fps))
        pictures[0].save(text, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
        return text.getvalue(), *self._kept[0].shape[:2]
