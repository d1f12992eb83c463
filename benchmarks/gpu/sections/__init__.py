"""The sections of `make gpu`: modules with `run(context) -> rows`, which may yield them one by one.

A row is a dictionary with a name, of rows with the same one the last counts; "ok": False makes the run fail, "said" is
a program's words, everything else is printed in the table. A section asks `context.seconds_left()` before each cell and
says "not reached" or "not measured" for what it leaves out. To add one, write a module here and name it in
`benchmarks.gpu.plan.SECTIONS`.
"""
