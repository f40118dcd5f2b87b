"""What a request may cost. Every limit is an option of `serve`."""

from __future__ import annotations

from dataclasses import dataclass

MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The limits of one server.

    Attributes:
        image_bytes: Of one image in encoded form; OpenAI takes 20 MB.
        image_pixels: Of one image; decoded, a pixel takes four bytes.
        images: In one request, all its rounds together.
        turns: Of the model in one answer; as in training.
        tokens: Of one turn, in tokens; as in evaluation.
        choices: The largest `n`.
        requests: Under way at once; more are told to come back.
        seconds: From the last byte of a request to the end of its answer.
    """

    image_bytes: int = 20 * MEGA
    image_pixels: int = 100 * MEGA
    images: int = 16
    turns: int = 5
    tokens: int = 2048
    choices: int = 8
    requests: int = 256
    seconds: float = 600.0

    @property
    def body_bytes(self) -> int:
        """The most bytes of a request: all its images as base64 would be too many to hold for every client."""
        return 3 * self.image_bytes + 4 * MEGA
