from kernels.products import *
