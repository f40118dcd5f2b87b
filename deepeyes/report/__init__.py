"""The page of a run: curves and trajectories in one HTML file."""
