"""Every numerical limit of the tests, with the value measured when it was set."""

# ---- model ---------------------------------------------------------------------------------------------------
# max |folded - textbook| / max |textbook| in float64, tiny towers. Measured: 1.5e-15.
FOLDS_FLOAT64 = 1e-12

# ---- engine --------------------------------------------------------------------------------------------------
# max difference of unit text rows, packed or as a tree, to the padded textbook.
# Measured in float64: 7e-16; in float32: 2.8e-7.
TEXT_PATHS_FLOAT64 = 1e-12
TEXT_PATHS_FLOAT32 = 1e-6

# ---- scoring -------------------------------------------------------------------------------------------------
# max difference of probabilities (scale 100) and cosines to float64, inputs of any dtype. Measured: 4e-6.
SCORES_FLOAT32 = 2e-5

# ---- kernels -------------------------------------------------------------------------------------------------
# error(kernel) <= this x error(plain torch in the same dtype) + one rounding. Measured: see the tests' own lines.
KERNEL_ERROR_FACTOR = 2.0

# ---- inputs --------------------------------------------------------------------------------------------------
# Pixels of decode="fast" (a JPEG decoded at half its size) against exact ones, less a mean of 117: 0.99992.
FAST_DECODE_PIXEL_COSINE = 0.999

# ---- parity --------------------------------------------------------------------------------------------------
# unit rows in float32 against transformers' and open_clip's own forward passes (the project's promise).
# Measured on the families at reduced depth: 1.5e-7.
REFERENCE_MAX_ABS = 2e-5
REFERENCE_COSINE = 0.999999

# ---- export --------------------------------------------------------------------------------------------------
# Smallest cosine of exported rows in ONNX Runtime to the float32 reference, every family at two blocks, batches 1, 2
# and 7. Measured: 1 - 2.4e-7 and 1 - 4.4e-6.
EXPORT_COSINE_FP32 = 0.99999
EXPORT_COSINE_FP16 = 0.999
