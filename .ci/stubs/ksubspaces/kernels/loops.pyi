from kernels.loops import *
