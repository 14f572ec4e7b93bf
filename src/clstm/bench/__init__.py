"""The benchmark behind `clstm bench`: clstm against its NumPy definition and other libraries.

It begins in command.py.  cases.py is the table of cases and goals; contestants.py, peers.py, low_precision.py
and numpy_classes.py are who takes part; limits.py is what the machine can do, timing.py the rounds,
measure.py one row from verification to judgement, report.py what is printed.  NumPy is all it needs.
"""
