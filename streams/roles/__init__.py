"""The composition roots: each module puts together what one `weir-streams` process runs. Only main imports them."""
