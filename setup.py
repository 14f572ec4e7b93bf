"""Builds the kernels once for each instruction set that the platform knows; the rest is in pyproject.toml.

CLSTM_DEBUG=1 turns on bounds checks and guarded workspaces, for the test suite.  CLSTM_VECTOR_BYTES=64 gives
the x86_64_v3 kernels the vectors, and so the layout, of x86_64_v4: its tests on a processor without AVX-512.
"""

import os
import platform
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("CLSTM_DEBUG", "") not in ("", "0")
VECTOR_BYTES = os.environ.get("CLSTM_VECTOR_BYTES", "")
X86_64 = platform.machine().lower() in ("x86_64", "amd64")

UNIX_FLAGS = [
    "-std=c11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fvisibility=hidden",
]
UNIX_FLAGS += ["-O1", "-g", "-DCLSTM_DEBUG=1"] if DEBUG else ["-O3", "-g0"]
# Never -march=native and never -ffast-math: a wheel runs where it was not built, and linking with the latter
# switches the whole process to flush-to-zero.
ISA_FLAGS = {
    "_kernels": ["-march=x86-64-v2"] if X86_64 else [],
    "_kernels_x86_64_v3": ["-march=x86-64-v3"],
    "_kernels_x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
if VECTOR_BYTES:
    ISA_FLAGS["_kernels_x86_64_v3"].append(f"-DCLSTM_VECTOR_BYTES={int(VECTOR_BYTES)}")


class BuildExt(build_ext):
    """Adds the flags of the compiler that is found."""

    def build_extension(self, ext):
        """Build one module; a compiler that is not GCC or Clang gets the baseline with plain loops."""
        if self.compiler.compiler_type == "unix":
            ext.extra_compile_args = UNIX_FLAGS + ISA_FLAGS.get(ext.name.rpartition(".")[2], [])
            ext.extra_link_args = [] if DEBUG or platform.system() == "Darwin" else ["-Wl,--strip-all"]
        elif self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = ["/O2", "/std:c11", "/fp:precise"]
        super().build_extension(ext)


names = ["_cpu", "_kernels"]
if X86_64 and platform.system() != "Windows":
    names += ["_kernels_x86_64_v3", "_kernels_x86_64_v4"]

setup(
    cmdclass={"build_ext": BuildExt},
    # Always compile: the age of a library does not tell whether it is a debug build.
    options={"build_ext": {"force": True, "parallel": True}},
    ext_modules=cythonize(
        [Extension(f"clstm.{name}", [f"pyx/{name}.pyx"], depends=glob("pyx/*")) for name in names],
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "initializedcheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": False,
            "binding": True,
            "autotestdict": False,
        },
    ),
)
