# mypy knows solver/ and kernels/ by these names alone; here it finds the second as ksubspaces.kernels.
from . import kernels as kernels
