"""Build the sparse runtime's library where there is a C++ compiler; everything else is in pyproject.toml.

One library holds the kernels of all instruction sets and chooses among them at run time. Without a working compiler the
install still succeeds: serving then uses model.onnx, and pip shows the reason with --verbose. With
SPARSERVE_REQUIRE_LIBRARY=1 it fails instead, for images and wheels that must contain the library.
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
RELEASE = ["-g0", "-fvisibility=hidden", f"-I{SOURCES}"]
# Some hosts close the library while its sessions live (Java closes it with the session options): stay loaded.
EXPORTS = f"-Wl,--version-script={SOURCES / 'exports.map'}"
LINK = ["-s", "-static-libstdc++", "-static-libgcc", EXPORTS, "-Wl,-z,nodelete"]


def compiler_flags() -> dict[str, list[str]]:
    """Read the table of compiler flags: by file name without its ending, and "common"."""
    lines = (SOURCES / "isa" / "flags.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    return {name: flags.split() for name, flags in rows}


class BuildLibrary(build_ext):
    """Compile each file with the flags of its instruction set; by default a failure is reported once and ignored."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        table = compiler_flags()
        common = table.pop("common")
        isa = table if platform.machine().lower() in ("x86_64", "amd64") else {}
        extra = os.environ.get("SPARSERVE_CXXFLAGS", "").split()
        try:

            def compile_one(source: str) -> list[str]:
                # The interpreter's own flags come first, these last.
                flags = [*common, *RELEASE, *isa.get(Path(source).stem, []), *extra]
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
    """The library does not depend on Python: one wheel per platform, or one for any platform without the library."""

    def get_tag(self) -> tuple[str, str, str]:
        built = Path(self.bdist_dir) / LIBRARY
        return "py3", "none", super().get_tag()[2] if built.is_file() else "any"


sources = [str(path) for path in sorted(SOURCES.rglob("*.cpp")) if "tests" not in path.parts]
headers = [str(path) for path in sorted(SOURCES.rglob("*.h"))]
setup(
    ext_modules=[
        Extension("sparserve.kernels.libsparserve", sources=sources, depends=headers, language="c++", optional=True)
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
