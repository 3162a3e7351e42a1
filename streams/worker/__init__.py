"""The Faust application that enriches: it reads batches of verdicts and writes one record per verdict."""
