"""Other solver libraries, each in a process of its own in an environment of its own.

Modules named ``with_...`` run there: they import neither ``ode_core`` nor anything that does.
"""
