"""A made-up shop, a small model that answers its customers, and the people who rate the answers."""
