"""What `weir bugreport` gathers, and how names are hidden in it."""
