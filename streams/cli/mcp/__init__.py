"""`weir mcp`: the commands that answer questions, as read-only tools of the Model Context Protocol."""
