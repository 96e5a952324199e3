#!/usr/bin/env bash
# Builds the CPU kernels for 64-bit ARM with a cross compiler and runs tests on them under qemu, on an x86-64 machine.
#   tools/arm.sh [pytest arguments]     default: the kernels' parity tests (an hour: qemu has a hundredth of the speed)
#   CXX=clang++-16 tools/arm.sh ...     with Clang, as on a Mac, instead of GCC
# Needs Debian 12, or a system whose `apt-get download` finds arm64 packages (dpkg --add-architecture arm64, apt-get
# update), with g++-aarch64-linux-gnu and qemu-user-static; in the current environment cmake, ninja, pybind11, pip. An
# ARM Python with NumPy is unpacked once into build/arm/root. Torch stays out, and tests that start another Python
# fail where the kernel does not know how to start an ARM program.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/build/arm
root=$build/root
python=$(python -c 'import sys; print("{}.{}".format(*sys.version_info))')

if [ ! -e "$root/site/pytest" ]; then
  mkdir -p "$build/packages" "$root/site"
  packages=("python$python" "libpython$python" "python$python-minimal" "libpython$python-minimal"
    "libpython$python-stdlib" "libpython$python-dev" libc6 libstdc++6 libgcc-s1 zlib1g libexpat1 libffi8 libssl3
    libbz2-1.0 liblzma5 libsqlite3-0 libuuid1)
  (cd "$build/packages" && apt-get download "${packages[@]/%/:arm64}")
  for package in "$build"/packages/*.deb; do dpkg -x "$package" "$root"; done
  pip download -q --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --python-version "$python" --only-binary=:all: -d "$build/packages" numpy ml_dtypes hypothesis pytest tqdm
  for wheel in "$build"/packages/*.whl; do python -m zipfile -e "$wheel" "$root/site"; done
fi

compiler=${CXX:-aarch64-linux-gnu-g++}
out=$build/$(basename "$compiler")
launcher=()
if command -v ccache >/dev/null; then
  export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
cmake -S . -B "$out" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu -DCMAKE_CXX_FLAGS="-idirafter $root/usr/include" -DFASTDL_CUDA=OFF \
  -DSKBUILD_PROJECT_VERSION=0.0.0 -DPython_EXECUTABLE="$(command -v python)" \
  -DPython_INCLUDE_DIR="$root/usr/include/python$python" "${launcher[@]}" >/dev/null
cmake --build "$out" -j "$(nproc)" | tail -n 20
rm -rf "$out/package" && mkdir -p "$out/package"
cp -RL python/fastdl "$out/package/"
rm -f "$out"/package/fastdl/*.so "$out"/package/fastdl/*.so.0
for module in "$out"/*.so; do # the name that CMake gave is that of the Python which runs here
  name=$(basename "$module")
  cp "$module" "$out/package/fastdl/${name%%.*}.cpython-${python/./}-aarch64-linux-gnu.so"
done

if [ $# -eq 0 ]; then
  mapfile -t tests < <(grep -l 'backends()' tests/test_*.py)
  set -- -q -k "not cuda and not accuracy" "${tests[@]}"
fi
export PYTHONPATH=$out/package:$root/site FASTDL_TESTS_WITHOUT_TORCH=1
exec qemu-aarch64-static -L "$root" "$root/usr/bin/python$python" -m pytest -p no:cacheprovider -o addopts= "$@"
