"""The request path: authenticate, route, relay, record; and the engines behind it."""
