"""Other servers with the same model, each in an environment that has no odeness.

What stands here runs there: it imports neither ``ode_core`` nor anything that does. All take the weights from the file
that ``SPHERE2_WEIGHTS`` names, and listen on ``127.0.0.1`` and the port they are given.
"""
