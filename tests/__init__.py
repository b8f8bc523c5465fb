import os

# Before anything loads OpenMP, whose threads else wait for one another in busy loops: where others use the machine,
# too, that multiplies the time of every test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
