"""The specification of both packages, as tests."""
