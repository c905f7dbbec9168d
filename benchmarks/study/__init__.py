"""The study of the paper: its stores, its plans, what is read off its results, what is printed."""
