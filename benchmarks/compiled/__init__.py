"""Kernels compiled without a GPU, and what is demanded of them; `compile_report` and `cuda_report` are the commands.

triton_cases, cuda_design   what is compiled, and what each kernel is designed for
triton_kernels, cuda_kernels   the compilers, and what their output holds
triton_gates, cuda_gates   what may never happen
budgets   registers and memory that may only shrink
faults, triton_faults, cuda_faults   a fault for every gate, that shows that it can fail
"""
