"""Every name of TensorRT that we use exists in 10.16 and in 11.4, by listings of the real bindings."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from prune2deploy.runtimes import trt as module

DATA = Path(__file__).parent / "data"
# what the variables of trt.py hold
HOLDS = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "error": "ParserError",
    "config": ("IBuilderConfig", "ISerializationConfig"), "profile": "IOptimizationProfile", "runtime": "Runtime",
    "timing_cache": "ITimingCache", "engine": "ICudaEngine", "context": "IExecutionContext",
    "inspector": "EngineInspector", "refitter": "Refitter",
}  # fmt: skip
OURS = {"settings", "log", "inputs", "output", "args", "strerror"}  # attributes of our own objects of the same name


def listing(version):
    """{class or enum: its members} of one version."""
    found = {}
    for line in (DATA / f"tensorrt-{version}-api.txt").read_text().splitlines():
        if matched := re.match(r"(?:class|enum) (\w+)[^:]*: ?(.*)", line):
            found[matched[1]] = {member.split("=")[0].strip() for member in matched[2].split(",")}
    return found


def uses():
    """(owner, attribute) of every attribute that trt.py takes of TensorRT's module and objects."""
    tree = ast.parse(inspect.getsource(module))
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        base = node.value
        name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else None
        if name == "trt":
            found.add(("module", node.attr))
        elif isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name | ast.Attribute):
            owner = base.value.id if isinstance(base.value, ast.Name) else base.value.attr
            if owner == "trt":
                found.add((base.attr, node.attr))
        if name in HOLDS and node.attr not in OURS:
            found.add((HOLDS[name], node.attr))
    return found


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_every_name_that_we_use_exists(version):
    known, used = listing(version), uses()
    missing = []
    for owner, name in used:
        if owner == "module":
            if name not in known and name not in ("__version__", "__name__"):
                missing.append(name)
        else:
            owners = owner if isinstance(owner, tuple) else (owner,)
            if not any(name in known.get(each, ()) for each in owners) and name != "__init__":
                missing.append(f"{owner}.{name}")
    assert not missing


def test_the_search_sees_what_is_used():
    used = uses()
    assert ("module", "Builder") in used
    assert ("BuilderFlag", "STRIP_PLAN") in used
    assert ("IExecutionContext", "execute_async_v3") in used
    assert ("Builder", "build_serialized_network") in used
    assert len(used) > 50
