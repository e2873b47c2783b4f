"""The pictures of the dashboards: a fleet, what befalls it, and what the dashboards then look like."""
