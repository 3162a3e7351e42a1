"""What the policy APIs mean. Pure: the reference that every compiled form must agree with."""
