"""Maps of whole volumes, one or a table of them."""
