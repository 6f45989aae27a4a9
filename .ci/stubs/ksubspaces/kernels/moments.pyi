from kernels.moments import *
