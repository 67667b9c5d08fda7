"""Files and collections: runs, preferences, documents, and writing that survives a kill."""
