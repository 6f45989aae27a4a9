from kernels.cpu_trellis import *
