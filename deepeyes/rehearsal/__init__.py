"""The rehearsal: the commands of a layout on the worst rows, before the bill."""
