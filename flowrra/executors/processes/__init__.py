"""The pool of worker processes, and what runs in them."""
