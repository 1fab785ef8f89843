"""Show the progress of a training in a terminal."""

from typing import Any

from tqdm import tqdm


class ProgressBar:
    """A progress bar for all members together, shown only in a terminal. It starts with the first images, because its
    thread must not run when processes are forked."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.bar: Any = None

    def update(self, images: int, text: str) -> None:
        if self.bar is None:
            self.bar = tqdm(total=self.images, unit=" images", disable=None, smoothing=0.05, leave=True)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(images)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
