"""The contract between the gateway and whatever runs the model: what a Backend answers, and how it can fail.

    BackendError             The model did not do what it should. The message is for operators, not for clients.
    ├── ImageRefused         The model cannot read this image, or has no such class. Clients see message and status.
    ├── NoSuchVersion        The model has no version of that number. Clients get 404.
    ├── OutdatedArchive      An earlier version of this project has packed the archive. Clients get 503.
    ├── TooSlow              There was no answer within the time limit. Clients get 504.
    └── Unavailable          The model is not there or is busy. Clients get 503, and may ask again.
        ├── Busy             Too many images are waiting already.
        └── WorkerDied       The worker that had the image is gone, and the image with it.

A refusal has one form from the handler to the client, and `success` tells it from every other answer.
"""

from typing import Any, Literal, NotRequired, Protocol, TypedDict

NO_MODEL = "No model is registered."  # the message of Unavailable if a backend has no version at all
LikelyClass = TypedDict("LikelyClass", {"class": str, "probability": float})


class Prediction(TypedDict):
    """The prediction for one image. `class_probabilities` has every class in the model's order; they sum to 1.

    The handler makes all of it but `top_k`, the likeliest classes in order, which a request may ask for.
    """

    predicted_class: str
    confidence: float
    class_probabilities: dict[str, float]
    in_distribution: bool
    in_distribution_score: float
    version: str
    success: Literal[True]
    top_k: NotRequired[list[LikelyClass]]


class Failure(TypedDict):
    """The body of every reply that failed."""

    error: str
    success: Literal[False]


class Refusal(Failure):
    """One image that the model refuses, and the HTTP status that a reply about it alone has."""

    status: int


class Explanation(TypedDict):
    """The parts of an image that support a class.

    `input` is the image as the model saw it, a PNG in a data URL. `heat_map` has 32 rows of 32
    numbers, whatever its size: how much the probability of the class drops when squares there are hidden, from -1 to 1.
    """

    explained_class: str
    predicted_class: str
    method: str
    input: str
    heat_map: list[list[float]]
    version: str
    success: Literal[True]


class Details(TypedDict):
    """The default version: its model card, its device (`cpu`, …), its number, and how many workers are ready."""

    card: dict[str, Any]
    device: str
    version: str
    workers: int


class Version(TypedDict):
    """A deployed version: its number, whether it is the default, and how many of its workers are ready."""

    version: str
    default: bool
    workers: int


class Deployed(TypedDict):
    """A deployed version as operators see it: its archive, and how many of its workers are ready."""

    version: str
    default: bool
    archive: str
    ready: int
    workers: int


Answer = Prediction | Refusal


class Backend(Protocol):
    """Runs the model. `version` names one of its versions; None or "" means the default.

    Every method raises BackendError or a kind of it.
    """

    def may_skip_line(self, image: bytes, version: str | None, free: bool) -> bool:
        """Say whether the thread of a request may predict its image itself, past the line. `free`: a call is free."""

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        """Predict the bytes of an image file. Raises ImageRefused for a refusal."""

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        """Predict two image files or more in one call; returns their answers in order."""

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> Explanation:
        """Explain a class, or the predicted class if `class_name` is empty. Raises ImageRefused for a refusal."""

    def details(self) -> Details:
        """Describe the default version. Raises Unavailable while none of its workers is ready."""

    def versions(self) -> list[Version]:
        """List the deployed versions."""


class BackendError(Exception):
    pass


class ImageRefused(BackendError):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NoSuchVersion(BackendError):
    pass


class OutdatedArchive(BackendError):
    def __init__(self) -> None:
        super().__init__(
            "An earlier version of this project has packed the archive; pack it again with 'classifier archive'."
        )


class TooSlow(BackendError):
    def __init__(self) -> None:
        super().__init__("The model took too long to answer.")


class Unavailable(BackendError):
    pass


class Busy(Unavailable):
    def __init__(self, message: str = "Too many images are waiting.") -> None:
        super().__init__(message)


class WorkerDied(Unavailable):
    pass
