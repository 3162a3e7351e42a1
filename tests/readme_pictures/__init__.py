"""Draws the README's pictures of the page, as SVG: what a browser shows, as boxes, texts and lines."""
