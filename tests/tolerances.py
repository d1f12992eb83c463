"""Every numerical limit of the tests, with the value measured when it was set."""

# ---- model ---------------------------------------------------------------------------------------------------
# max |folded - textbook| / max |textbook| in float64, tiny towers. Measured: 4e-15.
FOLDS_FLOAT64 = 1e-12
