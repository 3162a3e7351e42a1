"""Which flows are meant, and how past and new ones are read: for every command, page and interface that shows flows."""
