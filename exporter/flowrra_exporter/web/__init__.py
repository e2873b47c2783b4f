"""The HTTP side: routes for metrics, probes, the JSON API and a page, served from a thread of their own."""
