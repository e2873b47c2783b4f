"""The dashboards, generated: their source is here, what comes of it in dashboards/."""
