"""The built wheel: what is in it, how big it is, and that no level's code uses registers beyond its level.

Runs where ``FASTDL_WHEEL`` names a wheel and ``FASTDL_SDIST`` a source distribution (CI builds both); there is nothing
to open otherwise.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

WHEEL = os.environ.get("FASTDL_WHEEL")
SDIST = os.environ.get("FASTDL_SDIST")
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not WHEEL, reason="FASTDL_WHEEL does not name a wheel to open")


@pytest.fixture(scope="module")
def wheel():
    with zipfile.ZipFile(WHEEL) as archive:
        yield archive


def test_size(wheel):
    assert Path(WHEEL).stat().st_size <= 5_000_000


def test_files_are_deflated_as_far_as_zlib_can(wheel):
    """By tools/smaller_wheel.py."""
    largest = max(wheel.infolist(), key=lambda file: file.compress_size)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    size = len(packer.compress(wheel.read(largest))) + len(packer.flush())
    assert largest.compress_size <= size


def test_contents(wheel):
    names = wheel.namelist()
    for wanted in (
        "fastdl/py.typed",
        "fastdl/functions.pyi",
        "fastdl/tensor_methods.pyi",
        "fastdl/bench/runner.py",
        "fastdl/bench/bench_conv.py",
        "fastdl/datasets/digits.npz",
        "fastdl/kernels/reference/conv.py",
    ):
        assert wanted in names
    assert len(names) == len(set(names)), "a file is in the wheel twice"
    for name in set(names) - {"fastdl/as_torch.py"}:
        assert name.startswith(("fastdl/", "fastdl-"))
        assert not re.search(r"torch|(^|/)tests?/|\.(cpp|h|o|pyc|md|json|png)$", name.lower()), name


def test_stubs_of_private_modules_stay_with_the_sources(wheel):
    """They are for who works on fastdl; users' type checkers see what is public."""
    extensions = {Path(name).name.split(".")[0] for name in wheel.namelist() if name.endswith(".so")}
    assert {"_cpu", "_cpuid", "_graph"} <= extensions
    for extension in extensions:
        assert (ROOT / f"python/fastdl/{extension}.pyi").exists()
        assert f"fastdl/{extension}.pyi" not in wheel.namelist()


def test_requires_numpy_only(wheel):
    metadata = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    requires = re.findall(r"^Requires-Dist: (.*)$", wheel.read(metadata).decode(), re.M)
    unconditional = [r for r in requires if "extra ==" not in r]
    assert [re.split(r"[ >=<]", r)[0] for r in unconditional] == ["numpy"]


@pytest.mark.skipif(not SDIST, reason="FASTDL_SDIST does not name a source distribution to open")
def test_the_source_distribution_holds_all_sources():
    with tarfile.open(SDIST) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["pyproject.toml", "CMakeLists.txt", "csrc/CMakeLists.txt", "LICENSE", "README.md"]
    for folder in ("csrc", "python", "bench", "tests"):
        found = (
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".cpp", ".cu", ".h", ".py", ".pyi", ".npz")
        )
        wanted += [str(path.relative_to(ROOT)) for path in found]
    assert [path for path in wanted if path not in names] == []
    assert not any(
        name.startswith(("build", ".ci", ".git/")) or name.endswith((".so", ".so.0")) for name in names
    )


# What must not appear in a level's disassembly: wider registers than the level has, AVX-512's mask registers.
BASELINE = r"%[yz]mm|\bv(add|mul|fmadd|mov)[a-z0-9]*[sp][sd]\b"
FORBIDDEN = {
    "_cpuid": BASELINE,
    "_cpu": BASELINE,
    "_graph": BASELINE,
    "libfastdl_baseline": BASELINE,
    "libfastdl_avx2": r"%zmm|%k[1-7]\b",
}


@pytest.mark.skipif(platform.system() != "Linux", reason="what an ELF library shows")
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_libraries_show_their_entry_only(wheel, tmp_path):
    for name in wheel.namelist():
        if ".so" not in name:
            continue
        library = wheel.extract(name, tmp_path)
        listing = subprocess.run(
            ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
        ).stdout
        shown = {line.split()[-1] for line in listing.splitlines() if "__waiter_pool_base" not in line}
        module = Path(name).name.split(".")[0]
        assert shown == {"fastdl_level" if module.startswith("lib") else f"PyInit_{module}"}, name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels differ on x86-64 only")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) is not installed")
@pytest.mark.parametrize("module", FORBIDDEN)
def test_no_instructions_beyond_the_level(wheel, module, tmp_path):
    name = next(n for n in wheel.namelist() if n.startswith(f"fastdl/{module}.") and ".so" in n)
    extension = wheel.extract(name, tmp_path)
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", extension], capture_output=True, text=True, check=True
    ).stdout
    assert len(code) > 1000
    found = re.search(FORBIDDEN[module], code)
    assert not found, code[max(0, found.start() - 200) : found.end() + 50]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels differ on x86-64 only")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) is not installed")
def test_the_search_finds_what_it_looks_for(wheel, tmp_path):
    """The same patterns do match the levels that may use these registers: the test above can fail."""
    for module, pattern in (("libfastdl_avx2", r"%ymm"), ("libfastdl_avx512", r"%zmm")):
        name = next(n for n in wheel.namelist() if n.startswith(f"fastdl/{module}.") and ".so" in n)
        extension = wheel.extract(name, tmp_path)
        code = subprocess.run(["objdump", "-d", extension], capture_output=True, text=True, check=True).stdout
        assert re.search(pattern, code)
