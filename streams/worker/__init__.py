"""The Faust application that enriches: batches in, records out."""
