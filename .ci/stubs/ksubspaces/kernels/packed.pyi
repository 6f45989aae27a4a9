from kernels.packed import *
