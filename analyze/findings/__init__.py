"""What results show: redundancy, class effects, frontiers, small subsets, and the sentences about them."""
