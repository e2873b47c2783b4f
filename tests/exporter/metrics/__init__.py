"""What a scrape holds."""
