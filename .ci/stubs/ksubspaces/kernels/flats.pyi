from kernels.flats import *
