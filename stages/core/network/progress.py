"""Show the progress of a training in a terminal."""

from typing import Any

from tqdm import tqdm


class Bar:
    """A progress bar for all members together, shown only in a terminal. It starts with the first images, because its
    thread must not run when processes are forked."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.shown: Any = None

    def seen(self, images: int, text: str) -> None:
        if self.shown is None:
            self.shown = tqdm(total=self.images, unit=" images", disable=None, smoothing=0.05, leave=True)
        self.shown.set_postfix_str(text, refresh=False)
        self.shown.update(images)

    def close(self) -> None:
        if self.shown is not None:
            self.shown.close()
