"""The judge: who decides whether an answer says what the reference says."""
