"""Many devices: meshes and shardings, several processes as one run, TPU slices."""
