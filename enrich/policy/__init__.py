"""What the policy APIs mean, as pure functions: the reference that every compiled form must agree with."""
