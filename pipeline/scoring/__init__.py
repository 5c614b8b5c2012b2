"""How good a map is, and how far its test cells lie from what was learned."""
