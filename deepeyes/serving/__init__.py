"""`deepeyes.sh serve` and `ask`: an OpenAI-compatible endpoint that zooms, a page, and a question from the shell."""
