"""What can be found wrong in the policies of a repository before anybody applies them."""
