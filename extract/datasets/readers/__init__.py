"""One reader per kind of source, behind one contract: `Images`."""
