"""PyTorch's LSTM on the kernels: a module, and the conversion of whole models.

>>> import clstm.torch  # doctest: +SKIP
>>> clstm.torch.convert(model)  # every nn.LSTM in it, in place  # doctest: +SKIP
2

Needs torch; `import clstm` does not import this package.
"""

from ._modules import LSTM, LSTMCell, convert, revert

__all__ = ["LSTM", "LSTMCell", "convert", "revert"]
