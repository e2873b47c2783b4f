"""Proofs: what the tests show in a second, shown for a minute, under load and with real processes."""
