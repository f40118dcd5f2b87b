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
        request_bytes: Of a request, its images as base64; all that may be in one would be too much for every client.
        seconds: From the last byte of a request to the end of its answer.
    """

    image_bytes: int = 20 * MEGA
    image_pixels: int = 100 * MEGA
    images: int = 16
    turns: int = 5
    tokens: int = 2048
    choices: int = 8
    requests: int = 256
    request_bytes: int = 64 * MEGA
    seconds: float = 600.0
