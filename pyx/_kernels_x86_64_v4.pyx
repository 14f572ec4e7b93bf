# The kernels once more, compiled for x86-64-v4.
include "_kernels.pyx"
