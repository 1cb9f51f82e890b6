"""The demo: a small site with one background job, in a server of its own."""
