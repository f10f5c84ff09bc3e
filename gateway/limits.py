"""How much a request may bring, and how much may wait: bytes, files, lengths, seconds.

Formats and pixels are handler.transforms's. Some files cannot import this one and have copies, such as the page, nginx
and the docs; tests/gateway/test_limits.py compares each of them with this.
"""

# Of a request.
MAX_IMAGE_BYTES = 10 * 1024 * 1024  # of one image file, or of all in one request together
MAX_FILES = 32
MAX_MULTIPART_BYTES = MAX_IMAGE_BYTES + 1024 * 1024  # boundaries, headers and other fields around the files
MAX_JSON_BYTES = MAX_IMAGE_BYTES * 3 // 2  # base64 takes 4/3, escaped line breaks some more
MAX_BODY_BYTES = 16 * 1024 * 1024  # no route takes more
MAX_FIELD_BYTES = 1024 * 1024  # of a field that is not a file; smaller ones are ignored
MAX_CLASS_NAME_LENGTH = 256  # characters; it has to fit into a header
MAX_REQUEST_ID_LENGTH = 64  # characters
MAX_FOLDER_NAME_BYTES = 200  # of a class in feedback, which becomes a folder
MAX_NOTE_LENGTH = 1000  # characters, of feedback
MAX_URL_BYTES = 4096
MAX_HEADERS = 100
MAX_HEAD_BYTES = 64 * 1024  # of a request: its URL and headers, and what stands between the pieces of its body
PIECE_BYTES = 64 * 1024  # of a connection that are read or written at once
MAX_UNANSWERED = 100  # requests that a connection may send before it has read an answer
MAX_TORCHSERVE_BYTES = 10_500_000  # of a body that TorchServe and nginx take: images and what stands around them

# Of a gateway process. Each process has its own.
UNCOUNTED_BYTES = 64 * 1024  # of a body; larger ones are counted, from the first byte that is read to the answer
SMALL_IMAGE_BYTES = 256 * 1024  # an image of more bytes or pixels takes longer to decode than a call, and goes alone
SMALL_IMAGE_PIXELS = 1_000_000
MAX_BATCH = 16  # small images in a call, of at most so many bytes and pixels together:
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_PIXELS = 4_000_000
MAX_CALL_PIXELS = 50_000_000  # of the images of a request in one call; they take a second or two
MAX_WAITING_IMAGES = 400  # small ones that share calls, and as many others
MAX_IMAGES_OF_SLOW_LINE = 150  # none is added to so many if the first has waited for SLOW_LINE_SECONDS
SLOW_LINE_SECONDS = 1.0
MAX_HELD_BYTES = 128 * 1024 * 1024  # of larger bodies, from the first byte that is read to the answer
REFUSALS_A_SECOND = 500  # for want of a place; more of them wait, because their connections then ask less often
MAX_EXPLANATIONS = 2  # each takes the time of dozens of predictions

# Of time.
TIMEOUT = 15  # seconds; less than responseTimeout in handler/model-config.yaml, after which the worker is killed
BODY_SECONDS = 120  # for a whole body to arrive
READ_SECONDS = 20  # for the next piece of it,
HURRIED_READ_SECONDS = 3  # if many bodies are late: their connections may be needed
MANY_SLOW_BODIES = 32
REFUSAL_SECONDS = 0.25  # that a refusal waits at most
