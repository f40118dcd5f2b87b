"""`bash deepeyes.sh ask`: one question from the shell, and what the model does until it answers."""
