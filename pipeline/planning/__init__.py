"""What a recipe costs before it runs, and what fits a memory."""
