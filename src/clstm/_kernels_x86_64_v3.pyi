"""The kernels once more, compiled for x86-64-v3."""

from ._kernels import ACTIVATIONS as ACTIVATIONS
from ._kernels import DOT_FEATURE as DOT_FEATURE
from ._kernels import KINDS as KINDS
from ._kernels import PRECISIONS as PRECISIONS
from ._kernels import VECTOR_BYTES as VECTOR_BYTES
from ._kernels import Block as Block
from ._kernels import Stream as Stream
from ._kernels import add_rows as add_rows
from ._kernels import backward as backward
from ._kernels import backward_all as backward_all
from ._kernels import forward as forward
from ._kernels import forward_all as forward_all
from ._kernels import gives_up as gives_up
from ._kernels import product as product
from ._kernels import set_num_threads as set_num_threads
from ._kernels import sigmoid as sigmoid
from ._kernels import step as step
from ._kernels import tanh as tanh
from ._kernels import use_dot as use_dot
