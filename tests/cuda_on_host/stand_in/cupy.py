"""The stand-in as the module cupy itself, for rehearsals: PYTHONPATH=tests:tests/cuda_on_host/stand_in python ...

Programs for a device then run on the processor, slowly, with their kernels checked; see tools/device_check.sh.
"""

import sys

import cuda_on_host

sys.modules["cupy_backends.cuda.libs"] = cuda_on_host.libraries
sys.modules[__name__] = cuda_on_host.host_cupy()
