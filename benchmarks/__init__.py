"""The benchmark from a clone; the code is `clstm.bench`, README.md says how to run and read it."""
