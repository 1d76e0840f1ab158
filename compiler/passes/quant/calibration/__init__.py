"""Running a model on calibration data, layer by layer, and what is measured there."""
