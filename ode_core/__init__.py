"""The mathematics of odeness: specs, solvers, vector fields, models, datasets, training, audit."""
