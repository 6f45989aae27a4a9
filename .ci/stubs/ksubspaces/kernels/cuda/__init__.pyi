from kernels.cuda import ahead as ahead
from kernels.cuda import loader as loader
