"""What `make gpu` runs on a machine with a GPU.

runner     the command: sections in order, each in a process of its own
section    one section's process, and context, what it may ask for
sections   parity and timings, a module each
towers, libraries   the peers
table      gpu.json as the README's table and a plot
"""
