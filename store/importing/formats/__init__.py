"""Features in files of many formats, one a module: a matrix that is read row block by row block."""
