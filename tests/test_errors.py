import pytest

from prune2deploy.errors import InputError, reason_of


def test_message_is_one_line_whatever_a_file_is_called():
    assert str(InputError("a\nb.jsonl: the file is empty")) == "a b.jsonl: the file is empty"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too bad"), "too bad"), (ValueError("\n\n  too bad\nand more"), "too bad"), (ValueError(), "ValueError"),
        (KeyError("selu"), "nothing is called 'selu'"), (ValueError("x" * 500), "x" * 200),
    ],
)  # fmt: skip
def test_reason_is_the_first_line_that_says_anything(error, reason):
    assert reason_of(error) == reason
