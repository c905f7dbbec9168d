"""Critical mass by adaptive search: only the probes around the crossing are fitted."""
