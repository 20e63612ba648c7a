"""What becomes of a destination that takes the test file and does not let it be deleted."""

from enum import StrEnum


class DeletePolicy(StrEnum):
    """`strict` refuses it; `lenient` accepts it with a warning that names the file."""

    STRICT = "strict"
    LENIENT = "lenient"
