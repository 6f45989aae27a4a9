"""A budget in bits: k subspaces as transforms, with the bits shared out over directions."""
