"""The VISSL dialect: a VISSL configuration in, a native document out."""
