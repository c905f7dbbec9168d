"""Images from anywhere, in a fixed order, each with a name and a label."""
