"""The benchmark: clstm against its NumPy definition and other libraries; README.md says how to run and read it."""
