"""Tables of labels in files, one format a module: columns by name, in the file's row order."""
