"""What a scrape holds: the catalog, the collectors, and the text in which they are served."""
