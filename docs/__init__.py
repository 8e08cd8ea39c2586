"""The pages of the documentation, and the program that writes the ones made from the code."""
