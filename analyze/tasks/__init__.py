"""What probes are fitted on: matrices of one layer with labels, class weights."""
