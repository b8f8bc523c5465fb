"""Film grain as AV1 describes it: measured from what was removed, as parameters for a decoder to draw it from.

Arrays only: knows nothing of PyAV, encoders or streams.
"""
