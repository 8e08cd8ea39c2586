"""What is measured, and what is concluded from it."""
