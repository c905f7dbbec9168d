"""What others made: features and labels in files of many formats, matched and put into a store."""
