"""The kernel's side of the probe: compiling, maps, links. ``program`` alone imports bcc."""
