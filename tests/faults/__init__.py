"""Faults that are planted into a good boot plan, and what is said of the guest that meets them: see `table`."""
