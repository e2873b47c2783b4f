"""Forks of processes with threads, which newer Pythons warn of; ours are what the tests are about."""

# For `python -W`, and pytest's filterwarnings.
FORK_IS_MEANT = "ignore:This process:DeprecationWarning"
