"""API objects, as JSON, to the slim values of :mod:`enrich.model`."""
