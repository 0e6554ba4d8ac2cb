"""Images on disk: their folders, their pixels, and the packed store."""
