"""What the deformation between exhale and inhale says of the lungs. Nothing else of the library imports it."""
