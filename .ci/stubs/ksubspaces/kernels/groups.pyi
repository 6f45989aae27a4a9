from kernels.groups import *
