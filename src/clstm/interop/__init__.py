"""Models of other systems: what their files hold, as the arguments and parameters of an LSTM, and back.

One file a format, of ONNX two, each with `find` (every LSTM in a file), `read` (one of them) and a function
that writes.  All speak in the value `Found` (found.py).  The class `clstm.LSTM` is not known here; its
methods `from_torch` and so on make layers of what is found.  Nothing that a file says is believed, called or
followed.
"""
