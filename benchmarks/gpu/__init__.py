"""What `make gpu` runs on a machine with a GPU.

runner     the command: tasks in order, each in a process of its own
plan       which tasks, and the time of each; build, the native module; device_state, what figures belong to
processes  programs that are ended with what they have started
section    one section's process, and context, what it may ask for
sections   parity and timings, a module each
cell       one batch and everyone who computes it: contestants, programs of torch's compiler (warm), host_time
towers, libraries   the peers
results    gpu.json, of several runs; table, its rows as the README's table and a plot
"""
