"""Rows of several origins as one: files of a split, and splits that are read one after the other."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.data.values import as_text
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features


def joined(parts: "Sequence[Dataset]", names: Sequence[str], where: str) -> "Dataset":
    """The rows of `parts`, splits called `names`, one after the other; raises InputError where their columns differ.

    Numbers of several widths are made one kind, and where one split has numbers and another words, both are texts.
    """
    from datasets import concatenate_datasets

    def problem(key: str, index: int, first: object, other: object) -> InputError:
        return InputError(
            f"data {where!r}: splits {names[0]!r} and {names[index]!r} cannot be joined, column {key!r} differs "
            f"({shown(first)}, {shown(other)}); name one with --calibration and --evaluation"
        )

    if len(parts) == 1:
        return parts[0]
    wanted = common([part.features for part in parts], problem, as_texts=True)
    return concatenate_datasets([_made(part, wanted) for part in parts])


def common(
    features: "Sequence[Features]", problem: Callable[[str, int, object, object], InputError], as_texts: bool = False
) -> "Features":
    """Features wide enough for each of `features`; raises what `problem` makes of a column, a place and two kinds."""
    import datasets

    wanted = datasets.Features(features[0])
    for index, found in enumerate(features):
        for name in (*wanted, *found):
            first, other = wanted.get(name), found.get(name)
            both = first if first == other else _wider(first, other)
            if both is None and as_texts and _is_word(first) and _is_word(other):
                both = datasets.Value("string")
            if both is None:
                raise problem(name, index, first, other)
            wanted[name] = both
    return wanted


def shown(kind: object) -> str:
    """A kind of column, in a few words."""
    return "not there" if kind is None else " ".join(str(kind).split())[:80]


def _wider(first: object, other: object) -> object | None:
    """The kind of values that both of two kinds are; None where there is none."""
    import datasets
    import pyarrow as pa

    nothing = datasets.Value("null")
    if nothing in (first, other) and None not in (first, other):
        return first if other == nothing else other
    if not (isinstance(first, datasets.Value) and isinstance(other, datasets.Value)):
        return None
    schemas = [datasets.Features({"": kind}).arrow_schema.remove_metadata() for kind in (first, other)]
    try:
        return datasets.Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))[""]
    except pa.ArrowTypeError:
        return None


def _is_word(kind: object) -> bool:
    """Whether values of this kind are words or numbers, which are read as texts alike."""
    import datasets

    kinds = ("string", "large_string", "int", "uint", "float", "bool")
    return isinstance(kind, datasets.Value) and kind.dtype.startswith(kinds)


def _made(part: "Dataset", wanted: "Features") -> "Dataset":
    """`part` with its columns as `wanted`, in that order."""
    import datasets

    for name, kind in wanted.items():
        if kind == datasets.Value("string") and part.features[name].dtype not in ("string", "large_string", "null"):
            texts = [as_text(value) for value in part[name][:]]
            part = part.remove_columns(name).add_column(name, _strings(texts))
    part = part.select_columns(list(wanted))
    return part if part.features == wanted else part.cast(wanted)


def _strings(texts: list[Any]) -> "pa.Array":
    import pyarrow as pa

    return pa.array(texts, pa.string())


def wide_enough(features: "Sequence[Features]", files: Sequence[Path]) -> "Features":
    """The features of all `files` of a split; raises InputError, naming a file, where there are none."""

    def problem(key: str, index: int, first: object, other: object) -> InputError:
        return InputError(
            f"{files[index]}: column {key!r} is {shown(other)} here and {shown(first)} in {files[0].name}, which is of "
            "the same split; write both alike"
        )

    return common(features, problem)
