"""Reports: one HTML file per run that opens from disk, without a network."""
