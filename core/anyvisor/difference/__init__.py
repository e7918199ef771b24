"""What one boot plan does differently from another, in the words of the manuals; see `BootPlan.diff`."""
