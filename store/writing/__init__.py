"""Making and growing stores: documents, claims, shards, commits; arrays and column subsets as stores."""
