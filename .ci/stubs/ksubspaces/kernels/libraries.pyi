from kernels.libraries import *
