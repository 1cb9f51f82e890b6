"""The demo: a small site with one background job, and a server for it."""
