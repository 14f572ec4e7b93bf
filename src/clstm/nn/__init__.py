"""What training needs beside `clstm.LSTM`: a dense layer, losses, optimisers, windows over a series, `fit`.

A layer is anything with `flat_params` and `flat_grads`, two arrays of one shape; `forward` keeps a tape, a
call keeps nothing, and `backward` fills the gradients.  Optimisers and clipping work on the flat arrays and
know no layer.
"""

from .dense import Dense
from .losses import cross_entropy, mse_loss
from .model import SequenceModel
from .optimisers import Adam, clip_grad_norm
from .series import windows

__all__ = ["Adam", "Dense", "SequenceModel", "clip_grad_norm", "cross_entropy", "mse_loss", "windows"]
