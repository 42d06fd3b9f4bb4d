"""Which variants there are and how big they are: plain Python."""
