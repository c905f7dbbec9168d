"""The report: one HTML page that opens offline, the same figures for print, the tables as CSV."""
