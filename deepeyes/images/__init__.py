"""Images: the view that the model saw, crops of it, and how they travel. Needs the template of swift."""
