"""Samepath: TCP connections keep their path when nodes, pods or routers come and go."""
