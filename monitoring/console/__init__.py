"""The console: pages in which operators see how the loop stands, and decide."""
