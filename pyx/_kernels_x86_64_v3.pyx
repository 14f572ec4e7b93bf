# The kernels once more, compiled for x86-64-v3.
include "_kernels.pyx"
