"""Capture: from a call of a Python function to a graph.

instrument.py: copies of user functions with hooks.  hooks.py: what may be called, and how.  policy.py: the lists.
objects.py: operators, attributes, items, iteration.  watch.py: what is read from outside.  guards.py: what a trace took
for granted.  overlap.py: memory that written tensors must not share.  tracer.py: tensors, views, writes, gradients.
reach.py: the way to tensors that are no arguments.  array_mode.py, array_functions.py, array_lengths.py: NumPy code.  scalars.py: floats.
capture.py: one call into one `Captured`.  replay.py: running a `Captured`.  joint.py: backward passes of captured
forwards.  check.py: compiled against plain Python.
"""
