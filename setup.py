"""Builds the sparse runtime's library where there is a C++ compiler; everything else is in pyproject.toml.

One library holds the kernels of all instruction sets and chooses among them at run time. Without a compiler, or with
one that fails, the install still succeeds: serving then uses model.onnx, and says so; pip shows why with --verbose.
With SPARSERVE_REQUIRE_LIBRARY=1 it fails instead, for images and wheels that are meant to have the library.
"""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

SOURCES = Path("kernels/csrc")
LIBRARY = Path("sparserve/kernels/libsparserve.so")
COMMON = [
    *("-std=c++20", "-O2", "-g0", "-fPIC", "-fvisibility=hidden"),
    # Every instruction set computes the same: what is fused is said in the code.
    *("-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi"),
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# GCC 12's own AVX-512 headers are full of what these two warn about.
AVX512 = [
    *AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]
X86 = {
    "isa_avx2.cpp": AVX2,
    "isa_avx2_vnni.cpp": [*AVX2, "-mavxvnni"],
    "isa_avx512.cpp": AVX512,
    "isa_avx512_vnni.cpp": [*AVX512, "-mavx512vnni"],
}

# Some hosts close the library while its sessions live (Java's closes it with the session options): stay loaded.
EXPORTS = f"-Wl,--version-script={SOURCES / 'exports.map'}"
LINK = ["-s", "-static-libstdc++", "-static-libgcc", EXPORTS, "-Wl,-z,nodelete"]


class BuildLibrary(build_ext):
    """Compiles each file with the flags of its instruction set; a failure is said once, and is no error by default."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        extra = os.environ.get("SPARSERVE_CXXFLAGS", "").split()
        try:

            def compile_one(source: str) -> list[str]:
                # The interpreter's own flags come first, these last.
                flags = [*COMMON, *(X86.get(Path(source).name, []) if x86 else []), *extra]
                return self.compiler.compile(
                    [source], output_dir=self.build_temp, extra_postargs=flags, depends=ext.depends
                )

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = [object_file for files in pool.map(compile_one, ext.sources) for object_file in files]
            target = self.get_ext_fullpath(ext.name)
            self.compiler.link_shared_object(objects, target, target_lang="c++", extra_postargs=[*LINK, *extra])
        except (CCompilerError, ExecError, PlatformError) as error:
            if os.environ.get("SPARSERVE_REQUIRE_LIBRARY", "0") not in ("", "0"):
                raise SystemExit(f"error: the sparse runtime was not built: {error}") from error
            self.warn(
                f"The sparse runtime was not built ({error}). Serving will use model.onnx; install a C++20 compiler "
                "and install again to have it."
            )


class PlatformWheel(bdist_wheel):
    """The library needs no Python: one wheel for all versions of it on a platform, and for any platform without it."""

    def get_tag(self) -> tuple[str, str, str]:
        built = Path(self.bdist_dir) / LIBRARY
        return "py3", "none", super().get_tag()[2] if built.is_file() else "any"


sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
headers = [str(path) for path in sorted(SOURCES.rglob("*.h"))]
setup(
    ext_modules=[
        Extension("sparserve.kernels.libsparserve", sources=sources, depends=headers, language="c++", optional=True)
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
