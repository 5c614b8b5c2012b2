"""What lies around a reader: several sources as channels, masks, side arrays, and stores of others opened in place."""
